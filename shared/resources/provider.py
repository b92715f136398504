"""Providers: OAuth 2.0 servers that give out the tokens of connections."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from shared.errors import Problem
from shared.resources.declaration import SecretText, Spec, VaultAdds, about, resource
from shared.resources.shapes import Scopes
from shared.values import Name, Words

# An address as a person writes it; `{name}` in it stands for a parameter of the connection.
Template = Annotated[str, msgspec.Meta(max_length=1000)]
Parameters = Annotated[dict[str, Words], msgspec.Meta(max_length=100)]
Format = Literal["form", "json"]
ClientAuthentication = Literal["basic", "post", "none", "private_key_jwt", "client_secret_jwt"]
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512"
]


# Fields that are addresses.
ADDRESSES = (
    "issuer",
    "token_url",
    "refresh_url",
    "authorize_url",
    "device_url",
    "revoke_url",
    "introspect_url",
    "userinfo_url",
    "test_url",
    "base_url",
)
# Fields that are further parameters of requests.
FURTHER = ("authorize_parameters", "token_parameters", "refresh_parameters")


class ProviderAdds(VaultAdds, frozen=True):
    """The documents of the known provider that it is made from.

    `warnings`: its issuer cannot be reached, or what it announces is wrong, as it was when it was last asked within the hour. It is
    asked when a provider is put. No reason to refuse one.
    """

    documents: str | None
    warnings: list[Problem]


@resource(
    "provider",
    plural="providers",
    owner="oauth",
    in_vault=True,
    inherited=True,
    columns=("name", "org", "known", "client_id", "status", "warnings", "updated_at"),
    adds=ProviderAdds,
    example={"known": "github", "client_id": "Iv1.0123456789abcdef", "client_secret": "a long random text"},
)
class Provider(Spec, frozen=True, kw_only=True):
    """An OAuth 2.0 server with a client that is there, or an API with keys. What is not given is that of the known provider."""

    known: Annotated[Name, about("The known provider that it is: `GET /api/v1/known-providers` lists them.")] | None = None
    client_id: Annotated[Words, about("The client's id at the provider.")] | None = None
    client_secret: Annotated[SecretText, about("The client's secret, or its private key as PEM.")] | None = None
    client_id_parameter: Annotated[Name, about("The parameter with the client's id: `client_id` unless given.")] | None = None
    client_authentication: (
        Annotated[
            ClientAuthentication,
            about("How the client shows who it is: its secret in a header, in the body, none, or a token signed by key or secret."),
        ]
        | None
    ) = None
    key_id: Annotated[Words, about("The id of that private key at the provider: `kid` of what it signs.")] | None = None
    assertion_audience: Annotated[Words, about("`aud` of what the client signs, where it is not the usual one.")] | None = None
    assertion_algorithm: Annotated[Algorithm, about("How the client signs, unless as its kind of key mostly does.")] | None = None
    assertion_in: (
        Annotated[
            Literal["parameter", "header"], about("Where `jwt_bearer` sends what it has signed: GitHub wants it in a header.")
        ]
        | None
    ) = None
    token_url: Annotated[Template, about("Where tokens are given out. `{tenant}` is a connection's parameter.")] | None = None
    refresh_url: Annotated[Template, about("Where they are refreshed, if elsewhere.")] | None = None
    authorize_url: Annotated[Template, about("Where a person is asked.")] | None = None
    device_url: Annotated[Template, about("Where a device gets its code (RFC 8628).")] | None = None
    revoke_url: Annotated[Template, about("Where tokens are revoked (RFC 7009).")] | None = None
    introspect_url: Annotated[Template, about("Where a token is asked about (RFC 7662).")] | None = None
    userinfo_url: Annotated[Template, about("Where the person is asked about, by a token of the scope `openid`.")] | None = None
    test_url: (
        Annotated[Template, about("What of the API answers 200 to every credential that works, and 401 to others.")] | None
    ) = None
    base_url: Annotated[Template, about("Where the API is, for runs.")] | None = None
    header: Annotated[Name, about("The header that carries its tokens or keys: `Authorization` unless given.")] | None = None
    prefix: Annotated[str, msgspec.Meta(max_length=50), about("What stands before them there: `Bearer ` for tokens.")] | None = None
    issuer: (
        Annotated[
            Template,
            about(
                "The issuer: what `iss` of an answer has to be (RFC 9207). Without `token_url`, addresses are those it announces."
            ),
        ]
        | None
    ) = None
    hosts: Annotated[
        list[Name],
        msgspec.Meta(max_length=100),
        about("Hosts that an address with `{…}` may lead to: `api.example.com`, or `*.example.com`."),
    ] = msgspec.field(default_factory=list)
    scopes: Annotated[Scopes, about("What is asked for, unless the connection says otherwise.")] = msgspec.field(
        default_factory=list
    )
    scope_separator: Annotated[str, msgspec.Meta(max_length=3), about("Between scopes; a blank unless given.")] | None = None
    scope_parameter: (
        Annotated[Name, about("The parameter that carries the scopes where a person is asked: `scope` unless given.")] | None
    ) = None
    pkce: Annotated[bool, about("Whether PKCE (S256) is used: yes unless the provider refuses it.")] | None = None
    authorize_parameters: Annotated[
        Parameters, about("Further parameters of the address where a person is asked. `{tenant}` is a connection's.")
    ] = msgspec.field(default_factory=dict)
    token_parameters: Annotated[Parameters, about("Further parameters of every token request.")] = msgspec.field(
        default_factory=dict
    )
    refresh_parameters: Annotated[Parameters, about("Further parameters of refreshing.")] = msgspec.field(default_factory=dict)
    token_format: Annotated[Format, about("What token requests are sent as.")] | None = None
    token_headers: Annotated[Parameters, about("Further headers of token requests.")] = msgspec.field(default_factory=dict)
    revoke_format: Annotated[Format, about("What a request to revoke a token is sent as: a form unless given.")] | None = None
    token_path: Annotated[Name, about("Where the token stands in an answer, as `authed_user.access_token`.")] | None = None
    refreshed_path: Annotated[Name, about("Where it stands in the answer to refreshing it, if elsewhere.")] | None = None
    expires_unit: Annotated[Literal["seconds", "milliseconds"], about("The unit of `expires_in`.")] | None = None
    lifetime: (
        Annotated[int, msgspec.Meta(ge=1, le=366 * 86_400), about("Seconds that a token lives where no answer says so.")] | None
    ) = None
    lent_a_minute: (
        Annotated[
            int,
            msgspec.Meta(ge=1, le=100_000),
            about("Requests a minute by each other organization that the client is lent to: 120 unless given."),
        ]
        | None
    ) = None
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=64), about("Requests at a time.")] | None = None

    def over(self, known: Provider) -> Provider:
        """Return this provider with the known one's values where it has none of its own."""
        given: dict[str, Any] = msgspec.structs.asdict(self)
        return msgspec.structs.replace(known, **{name: value for name, value in given.items() if value not in (None, [], {})})
