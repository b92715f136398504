"""What the oauth service decides about connections, secrets and variables: pure."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Literal, TypeVar

import msgspec

from shared.envelope import derived_id, rfc3339
from shared.errors import Conflict, Invalid, PreconditionFailed, Problem
from shared.messages import Audited, ConnectionAuthorized, ConnectionRevoked, Message, SecretChanged, SecretRemoved
from shared.questions.oauth import ConnectionView, GetToken, PutConnection
from shared.questions.settings import GetSecret, PutSecret, SecretView

# The platform's own connections serve every organization that has none of that name.
PLATFORM = "global"
TOKEN_GRANT = "token"  # noqa: S105 - the name of a grant
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
# Bearer tokens travel in headers, and servers refuse headers beyond 8 to 64 KiB.
LONGEST_TOKEN = 64 * 1024
SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}\Z")
# Up to here a secret is masked as a whole in what a run says; and a message with a variable stays far below what the bus takes.
LONGEST_SECRET = LONGEST_VALUE = 64 * 1024

Outcome = Literal["ok", "not_found", "unavailable"]


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A row with something sealed in it.

    `version` counts what was sealed there; `announced`: the bus knows this state; `revoking`: it is about to be deleted.
    """

    id: str
    org: str
    name: str
    sealed: str
    version: int
    revoking: bool
    announced: bool
    actor: str
    first_command: str
    last_command: str
    created_at: datetime
    updated_at: datetime


class Connection(Kept, frozen=True, kw_only=True):
    """A connection's row."""

    grant_kind: str


class Secret(Kept, frozen=True, kw_only=True):
    """A secret's row."""


K = TypeVar("K", bound=Kept)


def check_input(command: PutConnection) -> None:
    """Raise `Invalid` when no connection can be made of the command."""
    problems = []
    if command.grant != TOKEN_GRANT:
        problems.append(Problem("grant", f"{command.grant!r} is not served; use {TOKEN_GRANT!r}"))
    if NAME.match(command.name) is None:
        problems.append(Problem("name", "must be 1 to 128 letters, digits, dots, dashes or underscores"))
    if problems:
        raise Invalid("the connection does not fit", errors=tuple(problems))


def check_token(token: str) -> None:
    """Raise `Invalid` when this cannot be a token; never quotes it."""
    if not token or len(token) > LONGEST_TOKEN or any(character < " " or character == "\x7f" for character in token):
        message = f"must be 1 to {LONGEST_TOKEN} characters without line breaks"
        raise Invalid("the token does not fit", errors=(Problem("token", message),))


def check_setting_name(name: str) -> None:
    """Raise `Invalid` when neither a secret nor a variable can have this name."""
    if SETTING_NAME.match(name) is None:
        message = "must be 1 to 100 letters, digits, dots, dashes or underscores, and begin with a letter or an underscore"
        raise Invalid(f"{name[:120]!r} cannot be a name: it {message}", errors=(Problem("name", message),))


def check_secret(value: str) -> None:
    """Raise `Invalid` when this cannot be a secret; never quotes it. Line breaks may be in it: keys have them."""
    if not value or len(value.encode()) > LONGEST_SECRET or "\0" in value:
        message = f"must be 1 to {LONGEST_SECRET} bytes of text without NUL characters"
        raise Invalid("the secret does not fit", errors=(Problem("value", message),))


def check_value(value: Any) -> None:
    """Raise `Invalid` when this JSON value cannot be a variable's."""
    encoded = msgspec.json.encode(value)
    if len(encoded) > LONGEST_VALUE:
        message = f"has {len(encoded)} bytes as JSON; at most {LONGEST_VALUE} are kept"
        raise Invalid(f"the value {message}", errors=(Problem("value", message),))


def check_expected(what: str, expected: int | None, found: Kept | None) -> None:
    """Raise `PreconditionFailed` unless the version that is there (0: none) is the expected one."""
    there = 0 if found is None else found.version
    if expected is not None and expected != there:
        raise PreconditionFailed(f"the {what} is at version {there}, not at {expected}")


def put(found: Connection | None, command: PutConnection, sealed: str, now: datetime) -> Connection:
    """Return the connection as the command makes it: `found` replaced, or a new one."""
    if found is None:
        return Connection(**_new(command, new_id_of(command.id, "connection"), sealed, now), grant_kind=command.grant)
    return msgspec.structs.replace(_next(found, command, sealed, now), grant_kind=command.grant)


def put_secret_row(found: Secret | None, command: PutSecret, sealed: str, now: datetime) -> Secret:
    """Return the secret as the command makes it: `found` replaced, or a new one."""
    if found is None:
        return Secret(**_new(command, new_id_of(command.id, "secret"), sealed, now))
    return _next(found, command, sealed, now)


def _new(command: PutConnection | PutSecret, id_: str, sealed: str, now: datetime) -> dict[str, Any]:
    return {
        "id": id_,
        "org": command.org,
        "name": command.name,
        "sealed": sealed,
        "version": 1,
        "revoking": False,
        "announced": False,
        "actor": command.actor,
        "first_command": command.id,
        "last_command": command.id,
        "created_at": now,
        "updated_at": now,
    }


def _next(found: K, command: PutConnection | PutSecret, sealed: str, now: datetime) -> K:
    return msgspec.structs.replace(
        found,
        sealed=sealed,
        version=found.version + 1,
        announced=False,
        actor=command.actor,
        last_command=command.id,
        updated_at=now,
    )


def new_id_of(command: str, what: str) -> str:
    """Return the id of what a command creates: the same at every try."""
    return derived_id(command, what)


def announcement(connection: Connection) -> tuple[Message, str]:
    """Return the message that says the connection's state, and its id: the same at every try."""
    if connection.revoking:
        revoked = ConnectionRevoked(connection=connection.id, name=connection.name, actor=connection.actor)
        return revoked, derived_id(connection.id, "revoked")
    authorized = ConnectionAuthorized(
        connection=connection.id,
        name=connection.name,
        grant=connection.grant_kind,
        version=connection.version,
        actor=connection.actor,
    )
    return authorized, derived_id(connection.id, "authorized", str(connection.version))


def secret_announcement(secret: Secret) -> tuple[Message, str]:
    """Return the message that says the secret's state, and its id: the same at every try."""
    if secret.revoking:
        removed = SecretRemoved(secret=secret.id, name=secret.name, actor=secret.actor)
        return removed, derived_id(secret.id, "removed")
    changed = SecretChanged(secret=secret.id, name=secret.name, version=secret.version, actor=secret.actor)
    return changed, derived_id(secret.id, "changed", str(secret.version))


def secret_audited(asked: GetSecret, secret: Secret | None, outcome: Outcome) -> Audited:
    """Return the record that a secret was given out, or was not."""
    detail: dict[str, str | int] = {"run": asked.run}
    if secret is not None:
        detail |= {"secret": secret.id, "owner": secret.org, "version": secret.version}
    return Audited(category="secret", verb="given", actor=f"run:{asked.run}", target=asked.name, outcome=outcome, detail=detail)


def audited(asked: GetToken, connection: Connection | None, outcome: Outcome) -> Audited:
    """Return the record that a token was given out, or was not."""
    detail: dict[str, str | int] = {"run": asked.run}
    if connection is not None:
        detail |= {"connection": connection.id, "owner": connection.org, "version": connection.version}
    return Audited(category="token", verb="given", actor=f"run:{asked.run}", target=asked.name, outcome=outcome, detail=detail)


def refuse_gone(what: str, *, removed: bool | None) -> None:
    """Raise `Conflict` when a creating command comes again after what it created was removed."""
    if removed is not None:
        raise Conflict(f"this command was carried out before, and its {what} has been removed since")


def view_of(connection: Connection, *, openable: bool) -> ConnectionView:
    """Return the connection as its owner shows it; `quarantined` is one whose key is missing."""
    return ConnectionView(
        id=connection.id,
        org=connection.org,
        name=connection.name,
        grant=connection.grant_kind,
        status=_status(connection, openable=openable),
        created_at=rfc3339(connection.created_at),
        updated_at=rfc3339(connection.updated_at),
        version=connection.version,
    )


def secret_view(secret: Secret, *, openable: bool) -> SecretView:
    """Return the secret as its owner shows it: never its value."""
    return SecretView(
        id=secret.id,
        org=secret.org,
        name=secret.name,
        status=_status(secret, openable=openable),
        created_at=rfc3339(secret.created_at),
        updated_at=rfc3339(secret.updated_at),
        version=secret.version,
    )


def _status(row: Kept, *, openable: bool) -> str:
    return "revoking" if row.revoking else ("active" if openable else "quarantined")
