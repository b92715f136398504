"""Connections: credentials of an organization."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from shared.resources.declaration import SecretText, Spec, about, refers_to, resource
from shared.resources.shapes import Scopes
from shared.values import Name, Words

Grant = Literal[
    "token", "api_key", "basic",
    "client_credentials", "authorization_code", "device_code", "jwt_bearer", "token_exchange",
]  # fmt: skip
Status = Literal["active", "pending", "healthy", "refreshing", "degraded", "needs_reauthorization", "quarantined"]


class ConnectionAdds(msgspec.Struct, frozen=True):
    """How it is, why, and what to do about it. Times are those of its token; a static credential is `active`."""

    status: Status
    reason: str | None
    advice: str | None
    expires_at: str | None
    refreshed_at: str | None
    granted_scope: str | None


@resource(
    "connection",
    plural="connections",
    owner="oauth",
    in_vault=True,
    columns=("name", "grant", "provider", "status", "expires_at", "updated_at"),
    adds=ConnectionAdds,
    example={"token": "a long random text"},
)
class Connection(Spec, frozen=True, kw_only=True):
    """A credential. Its secrets go in and never come out, but for runs.

    `token` is the secret that is given: the token or API key itself, the password of `username`, or, where the connection has an
    OAuth client of its own, that client's secret, or its private key.
    """

    token: (
        Annotated[SecretText, about("The token, the key, the password, or the secret or private key of the client `client_id`.")]
        | None
    ) = None
    grant: Annotated[
        Grant,
        about("What it is: a `token`, an `api_key`, `basic` for a user and a password, or how an OAuth provider grants it."),
    ] = "token"
    provider: (
        Annotated[Name, refers_to("provider"), about("The provider: one of yours, or a known one; OAuth needs one.")] | None
    ) = None
    client_id: Annotated[Words, about("The id of an OAuth client of its own; the provider's else.")] | None = None
    key_id: Annotated[Words, about("The id of that client's private key at the provider.")] | None = None
    subject: Annotated[Words, about("In whose name a `jwt_bearer` one asks; the client's own unless given.")] | None = None
    exchanges: Annotated[Name, about("The connection whose token a `token_exchange` one exchanges.")] | None = None
    scopes: Annotated[Scopes, about("What is asked for; what the provider says else.")] = msgspec.field(default_factory=list)
    parameters: Annotated[
        dict[str, Name], msgspec.Meta(max_length=100), about("Values for `{…}` in the provider's addresses: `tenant`.")
    ] = msgspec.field(default_factory=dict)
    username: Annotated[Words, about("The user of a `basic` one.")] | None = None
    header: Annotated[Name, about("The header that carries it: `Authorization` unless given.")] | None = None
    prefix: Annotated[str, msgspec.Meta(max_length=50), about("What stands before it there: `Bearer ` for tokens.")] | None = None
    query: Annotated[Name, about("The parameter of the query string that carries an `api_key` instead of a header.")] | None = None
    base_url: Annotated[Words, about("Where the API is, for runs.")] | None = None
