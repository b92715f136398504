"""Identity providers: OpenID Connect servers by which people sign in."""

from __future__ import annotations

from typing import Annotated

import msgspec

from shared.errors import Problem
from shared.resources.declaration import Link, Names, Role, SecretText, Spec, VaultAdds, about, resource
from shared.resources.shapes import Scopes
from shared.values import Key, Name, Words

# Where people come back to when they have signed in, and out; the gateway serves both beside `/auth/{name}`.
SIGNED_IN, SIGNED_OUT = "/auth/callback", "/auth/signed-out"
NAMES = Names(
    r"(?!(?:callback|signed-out)\Z)[A-Za-z0-9][A-Za-z0-9._-]{0,99}",
    "a name has 1 to 100 letters, digits, dots, underscores and hyphens, begins with a letter or digit, and is not `callback` or "
    "`signed-out`",
)

Roles = Annotated[dict[Key, Role], msgspec.Meta(max_length=1000)]
"""What somebody may do, by organization."""


class IdentityProviderAdds(VaultAdds, frozen=True):
    """The address that the client at the provider has to be allowed to lead people back to.

    `warnings`: the issuer cannot be reached, or what it announces is wrong, as it was when it was last asked within the hour.
    """

    redirect_url: Link
    warnings: list[Problem]


@resource(
    "identity_provider",
    plural="identity-providers",
    owner="oauth",
    read="admin",
    write="admin",
    names=NAMES,
    of_platform=True,
    in_vault=True,
    columns=("name", "display_name", "issuer", "enabled", "just_in_time", "status", "warnings", "updated_at"),
    adds=IdentityProviderAdds,
    example={
        "issuer": "https://id.example.com",
        "client_id": "millrace",
        "client_secret": "a long random text",
        "groups_claim": "groups",
        "groups": {"engineers": {"acme": "developer"}},
        "just_in_time": True,
    },
)
class IdentityProvider(Spec, frozen=True, kw_only=True):
    """An OpenID Connect server by which people sign in, and what those may do whom it vouches for.

    Its addresses and keys are those that the issuer announces. Who is in several groups has the most that one of them gives. With
    `groups` or `default_roles` somebody's roles are what these say at each sign-in; without both they are those that the user has.
    """

    issuer: Annotated[Words, about("The issuer, exactly as it calls itself: `https://login.example.com`.")]
    client_id: Annotated[Words, about("The client's id at the provider.")]
    client_secret: (
        Annotated[SecretText, about("The client's secret, or its private key as PEM; none for a public client.")] | None
    ) = None
    display_name: Annotated[Words, about("What people read where they sign in; the name unless given.")] = ""
    enabled: Annotated[bool, about("Whether people can sign in by it.")] = True
    scopes: Annotated[Scopes, about("What is asked for besides `openid`: `profile` and `email` unless given.")] = msgspec.field(
        default_factory=lambda: ["profile", "email"]
    )
    groups_claim: Annotated[Name, about("The claim with somebody's groups: `realm_access.roles` for one within another.")] = (
        "groups"
    )
    groups: Annotated[
        dict[Words, Roles],
        msgspec.Meta(max_length=1000),
        about("What the members of a group may do, by organization; `global` is the platform."),
    ] = msgspec.field(default_factory=dict)
    default_roles: Annotated[Roles, about("What everybody may do who signs in by it, by organization.")] = msgspec.field(
        default_factory=dict
    )
    just_in_time: Annotated[bool, about("Whether who signs in for the first time becomes a user.")] = False
    email_domains: Annotated[
        list[Name],
        msgspec.Meta(max_length=100),
        about("Whose addresses people need, which the provider has verified: `example.com`. Without any, nobody's address counts."),
    ] = msgspec.field(default_factory=list)
