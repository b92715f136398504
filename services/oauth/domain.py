"""What the oauth service decides about a connection: pure."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Literal

import msgspec

from shared.envelope import derived_id, rfc3339
from shared.errors import Conflict, Invalid, PreconditionFailed, Problem
from shared.messages import Audited, ConnectionAuthorized, ConnectionRevoked, Message
from shared.questions.oauth import ConnectionView, GetToken, PutConnection

# The platform's own connections serve every organization that has none of that name.
PLATFORM = "global"
TOKEN_GRANT = "token"  # noqa: S105 - the name of a grant
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
# Bearer tokens travel in headers, and servers refuse headers beyond 8 to 64 KiB.
LONGEST_TOKEN = 64 * 1024

Outcome = Literal["ok", "not_found", "unavailable"]


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """A row. `version` counts credentials; `announced`: the bus knows this state; `revoking`: it is about to be deleted."""

    id: str
    org: str
    name: str
    grant_kind: str
    sealed: str
    version: int
    revoking: bool
    announced: bool
    actor: str
    first_command: str
    last_command: str
    created_at: datetime
    updated_at: datetime


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


def check_expected(expected: int | None, found: Connection | None) -> None:
    """Raise `PreconditionFailed` unless the version that is there (0: none) is the expected one."""
    there = 0 if found is None else found.version
    if expected is not None and expected != there:
        raise PreconditionFailed(f"the connection is at version {there}, not at {expected}")


def put(found: Connection | None, command: PutConnection, sealed: str, now: datetime) -> Connection:
    """Return the connection as the command makes it: `found` replaced, or a new one."""
    if found is None:
        return Connection(
            id=new_connection_id(command.id),
            org=command.org,
            name=command.name,
            grant_kind=command.grant,
            sealed=sealed,
            version=1,
            revoking=False,
            announced=False,
            actor=command.actor,
            first_command=command.id,
            last_command=command.id,
            created_at=now,
            updated_at=now,
        )
    return msgspec.structs.replace(
        found,
        grant_kind=command.grant,
        sealed=sealed,
        version=found.version + 1,
        announced=False,
        actor=command.actor,
        last_command=command.id,
        updated_at=now,
    )


def new_connection_id(command: str) -> str:
    """Return the id of the connection that a command creates: the same at every try."""
    return derived_id(command, "connection")


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


def audited(asked: GetToken, connection: Connection | None, outcome: Outcome) -> Audited:
    """Return the record that a token was given out, or was not."""
    detail: dict[str, str | int] = {"run": asked.run}
    if connection is not None:
        detail |= {"connection": connection.id, "owner": connection.org, "version": connection.version}
    return Audited(category="token", verb="given", actor=f"run:{asked.run}", target=asked.name, outcome=outcome, detail=detail)


def refuse_gone(*, removed: bool | None) -> None:
    """Raise `Conflict` when a creating command comes again after its connection was removed."""
    if removed is not None:
        raise Conflict("this command was carried out before, and its connection has been removed since")


def view_of(connection: Connection, *, openable: bool) -> ConnectionView:
    """Return the connection as its owner shows it; `quarantined` is one whose key is missing."""
    return ConnectionView(
        id=connection.id,
        org=connection.org,
        name=connection.name,
        grant=connection.grant_kind,
        status="revoking" if connection.revoking else ("active" if openable else "quarantined"),
        created_at=rfc3339(connection.created_at),
        updated_at=rfc3339(connection.updated_at),
        version=connection.version,
    )
