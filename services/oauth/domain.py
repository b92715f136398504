"""Decides about connections, secrets and variables: pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec

from services.oauth.flows import FLOWS
from shared.envelope import derived_id
from shared.errors import Conflict, Invalid, PreconditionFailed, Problem
from shared.jose import private_key_of
from shared.messages import (
    Audited,
    ConnectionAuthorized,
    ConnectionRevoked,
    IdentityProviderChanged,
    IdentityProviderRemoved,
    Message,
    ProviderChanged,
    ProviderRemoved,
    SecretChanged,
    SecretRemoved,
    declaration_of,
)
from shared.questions.oauth import GetSecret, GetToken
from shared.resources.connection import Connection
from shared.resources.provider import Provider

# Bearer tokens travel in headers, and servers refuse headers beyond 8 to 64 KiB.
LONGEST_TOKEN = 64 * 1024
# Up to here a secret is masked as a whole in a run's output; and a message with a variable stays far below the bus's largest.
LONGEST_SECRET = LONGEST_VALUE = 64 * 1024
# The name of a row's value where it is bound to a place, and in the record that it was given.
CALLED = {"connection": "token", "secret": "secret", "provider": "client_secret", "identity_provider": "client_secret"}
_MESSAGES: dict[str, tuple[type[Message], type[Message]]] = {
    "connection": (ConnectionAuthorized, ConnectionRevoked),
    "identity_provider": (IdentityProviderChanged, IdentityProviderRemoved),
    "provider": (ProviderChanged, ProviderRemoved),
    "secret": (SecretChanged, SecretRemoved),
}

# Headers that say how a request is sent, and what it is: a credential in one would break the request, or be dropped on its way.
_SENDING = {
    *("accept", "connection", "content-length", "content-type", "expect", "host", "keep-alive", "proxy-authenticate"),
    *("proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
}
_OWN_HEADERS = _SENDING | {"authorization"}
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_ADDRESS = re.compile(r"https?://[^\s@/?#]+(?:[/?][^\s#]*)?")

Outcome = Literal["ok", "not_found", "unavailable"]


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The row of a resource with a sealed part; `spec` is the open part.

    `sealed` is "" where it has none. `version` counts its changes; `announced`: the bus knows this state; `revoking`: it is about
    to be deleted. `destination` stands for the client and the addresses that the value was given for, None for one that is sent
    to none, or was given before that was kept.
    """

    id: str
    noun: str
    org: str
    name: str
    spec: dict[str, Any]
    sealed: str
    applied_as: str | None
    version: int
    revoking: bool
    announced: bool
    actor: str
    first_command: str
    last_command: str
    created_at: datetime
    updated_at: datetime
    destination: str | None = None


def place_of(noun: str, org: str, id_: str, name: str) -> tuple[str, str, str]:
    """Return the binding of a row's value: it opens in no other row or organization, and for no other kind.

    A secret's binding is its name: a value sealed for `a` does not open as `b`.
    """
    return org, name if noun == "secret" else id_, CALLED[noun]


def token_place(org: str, connection: str) -> tuple[str, str, str]:
    """Return the binding of the tokens that a provider gave for a connection."""
    return org, connection, "tokens"


class Sending(msgspec.Struct, frozen=True):
    """How a credential is sent: further headers, and further parameters of the query string. They hold it."""

    headers: dict[str, str] = {}
    query: dict[str, str] = {}

    def __repr__(self) -> str:
        """Show no secret."""
        return "Sending(...)"


def sending_of(spec: Connection, provider: Provider, token: str) -> Sending:
    """Return how a connection's credential is sent: a token after `Bearer`, unless its connection or provider says otherwise."""
    if spec.grant == "basic":
        pair = base64.b64encode(f"{spec.username}:{token}".encode()).decode()
        return Sending(headers={"Authorization": f"Basic {pair}"})
    if spec.query is not None:
        return Sending(query={spec.query: token})
    usual = "" if spec.grant == "api_key" else "Bearer "
    prefix = next(one for one in (spec.prefix, provider.prefix, usual) if one is not None)
    return Sending(headers={spec.header or provider.header or "Authorization": prefix + token})


def check_connection(spec: Connection, *, has_token: bool) -> None:
    """Raise `Invalid` naming each field that a connection of its grant lacks, or has no use for."""
    flow = FLOWS.get(spec.grant)
    oauth = flow is not None
    problems = []
    if not oauth and not has_token:
        problems.append(Problem("token", f"is missing: a connection by {spec.grant} is nothing without it"))
    if oauth and has_token and spec.client_id is None:
        problems.append(Problem("client_id", "is missing: the secret is that of a client"))
    if oauth and spec.provider is None:
        problems.append(Problem("provider", f"is missing: {spec.grant} needs one"))
    if flow is not None and flow.has_key and spec.client_id is not None and not has_token:
        problems.append(Problem("token", f"is missing: {spec.grant} needs the private key of the client"))
    if flow is not None:
        problems += [Problem(one, f"is missing: {spec.grant} needs it") for one in flow.needs if not getattr(spec, one)]
    if spec.grant == "basic" and not spec.username:
        problems.append(Problem("username", "is missing: basic needs one"))
    if spec.username is not None and ":" in spec.username:
        # RFC 7617: what is behind it would be the beginning of the password.
        problems.append(Problem("username", "holds a colon, which no user's name for basic has"))
    if spec.grant != "basic" and spec.username is not None:
        problems.append(Problem("username", "is of basic only"))
    if spec.query is not None and (spec.grant != "api_key" or spec.header is not None):
        problems.append(Problem("query", "is of an api_key only, and instead of a header"))
    problems += _unsendable(spec)
    if spec.base_url is not None and not _ADDRESS.fullmatch(spec.base_url):
        problems.append(Problem("base_url", "must be an address that begins with https:// or http://, without a user or blanks"))
    useless = {name for one in FLOWS.values() for name in one.fields} - set(() if flow is None else flow.fields)
    if not oauth:
        useless |= {"client_id", "key_id", "scopes"} | (set() if spec.provider is not None else {"parameters"})
    problems += [
        Problem(one, f"is of no use for a connection by {spec.grant}")
        for one in spec.__struct_fields__
        if one in useless and getattr(spec, one)
    ]
    _raise(problems)


def check_token(token: str, grant: str = "token") -> None:
    """Raise `Invalid` when this cannot be a token, or for a flow the secret or key of a client; never quotes it."""
    flow = FLOWS.get(grant)
    if flow is not None and (flow.has_key or is_key(token)):
        check_key(token, "token")
        return
    if not token.strip() or len(token) > LONGEST_TOKEN or any(character < " " or character == "\x7f" for character in token):
        message = f"must be 1 to {LONGEST_TOKEN} characters without line breaks, and not only spaces"
        raise Invalid("the token does not fit", errors=(Problem("token", message),))


def is_key(secret: str) -> bool:
    """Return whether the secret of a client is a private key."""
    return secret.lstrip().startswith("-----BEGIN")


def check_key(secret: str, field: str) -> None:
    """Raise `Invalid` naming the field when this is no private key; never quotes it."""
    try:
        private_key_of(secret)
    except ValueError as error:
        raise Invalid(f"the {field} does not fit: {error}", errors=(Problem(field, str(error)),)) from error


def check_client_secret(secret: str, authentication: str | None) -> None:
    """Raise `Invalid` when this cannot be the secret of a client that shows who it is in this way; never quotes it."""
    if authentication == "private_key_jwt" or is_key(secret):
        check_key(secret, "client_secret")
        return
    if not secret.strip() or len(secret) > LONGEST_SECRET or any(not " " <= one <= "~" for one in secret):
        message = f"must be 1 to {LONGEST_SECRET} printable ASCII characters"
        raise Invalid("the client's secret does not fit", errors=(Problem("client_secret", message),))


def check_headers(provider: Provider) -> None:
    """Raise `Invalid` naming what a provider says of headers and cannot stand in one, or is a token request's own."""
    problems = [
        Problem(f"token_headers.{name}", "is no header, or one of the request's own")
        for name, value in provider.token_headers.items()
        if not _HEADER.fullmatch(name) or name.lower() in _OWN_HEADERS or not _is_plain(value)
    ]
    _raise(problems + _unsendable(provider))


def _unsendable(spec: Connection | Provider) -> list[Problem]:
    problems = []
    if spec.header is not None and not _HEADER.fullmatch(spec.header):
        problems.append(Problem("header", "is no name of a header"))
    elif spec.header is not None and spec.header.lower() in _SENDING:
        problems.append(Problem("header", "says how a request is sent, and carries no credential"))
    if spec.prefix is not None and not _is_plain(spec.prefix):
        problems.append(Problem("prefix", "cannot stand in a header"))
    return problems


def _is_plain(text: str) -> bool:
    return all(" " <= one <= "~" for one in text)


def _raise(problems: Sequence[Problem]) -> None:
    if problems:
        raise Invalid("; ".join(f"{one.path} {one.message}" for one in problems), errors=tuple(problems))


def check_secret(value: str) -> None:
    """Raise `Invalid` when this cannot be a secret; never quotes it. Line breaks may be in it: keys have them."""
    if not value or len(value.encode()) > LONGEST_SECRET or "\0" in value:
        message = f"must be 1 to {LONGEST_SECRET} bytes of text without NUL characters"
        raise Invalid("the secret does not fit", errors=(Problem("value", message),))


def check_readers(before: str, after: str) -> None:
    """Raise `Invalid` when a secret that was for services alone would be given to runs."""
    if before == "services" and after != before:
        message = "is `services` for this secret, and stays so; remove it first to make one of its name for runs"
        raise Invalid("the secret is for services only", errors=(Problem("readers", message),))


def check_value(value: Any) -> None:
    """Raise `Invalid` when this JSON value cannot be a variable's."""
    encoded = msgspec.json.encode(value)
    if len(encoded) > LONGEST_VALUE:
        message = f"has {len(encoded)} bytes as JSON; at most {LONGEST_VALUE} are kept"
        raise Invalid(f"the value {message}", errors=(Problem("value", message),))


def check_expected(noun: str, expected: int | None, found: Kept | None) -> None:
    """Raise `PreconditionFailed` unless the version that is there (0: none) is the expected one."""
    there = 0 if found is None else found.version
    if expected is not None and expected != there:
        raise PreconditionFailed(f"the {noun} is at version {there}, not at {expected}")


def refuse_gone(noun: str, *, removed: bool | None) -> None:
    """Raise `Conflict` when a creating command comes again after its resource was removed."""
    if removed is not None:
        raise Conflict(f"this command was carried out before, and its {noun} has been removed since")


def announcement(row: Kept) -> tuple[Message, str]:
    """Return the message of the row's state, and its id: the same at every try."""
    changed, gone = _MESSAGES[row.noun]
    about = {row.noun: row.id, "name": row.name, "actor": row.actor}
    if row.revoking:
        return msgspec.convert(about, gone), derived_id(row.id, declaration_of(gone).verb)
    message = msgspec.convert(row.spec | about | {"version": row.version}, changed)
    return message, derived_id(row.id, declaration_of(changed).verb, str(row.version))


def audited(noun: str, asked: GetToken | GetSecret, row: Kept | None, outcome: Outcome) -> Audited:
    """Return the record that a token or a secret was given out, or was not."""
    given = {"run": asked.run, "source": asked.source}
    detail: dict[str, str | int] = {name: value for name, value in given.items() if value is not None}
    if row is not None:
        detail |= {noun: row.id, "owner": row.org, "version": row.version}
    # A service's own need: by the rights on the bus only these two may ask, and only the events service registers sources.
    own = "executor" if asked.source is None else "events"
    actor = own if asked.run is None else f"run:{asked.run}"
    return Audited(category=CALLED[noun], verb="given", actor=actor, target=asked.name, outcome=outcome, detail=detail)
