"""Users: people who sign in, and what each may do in which organization."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from shared.resources.declaration import Names, Resource, Role, Spec, about, internal, resource
from shared.resources.shapes import MERGED
from shared.values import Key, Words

LOGIN = Names(
    r"[a-z0-9][a-z0-9._@+-]{0,99}", "a login has 1 to 100 small letters, digits and . _ @ + -, and begins with a letter or digit"
)
Method = Literal["password", "totp", "recovery", "passkey", "openid", "invitation"]
"""How a user has signed in, or can."""
Roles = Annotated[dict[Key, Role | None], msgspec.Meta(max_length=1000, extra_json_schema={MERGED: True})]


class UserAdds(msgspec.Struct, frozen=True):
    """How the user can sign in."""

    methods: list[Method]


@resource(
    "user",
    plural="users",
    owner="gateway",
    read="admin",
    write="admin",
    names=LOGIN,
    registered=("gateway",),
    of_platform=True,
    # All are held in memory at each gateway.
    most=10_000,
    columns=("name", "display_name", "email", "roles", "enabled", "methods"),
    adds=UserAdds,
    example={"display_name": "Ada Lovelace", "email": "ada@example.com", "roles": {"acme": "operator"}},
)
class User(Spec, frozen=True, kw_only=True):
    """A person who signs in, and acts in each organization with a role of its own; in `global` for the platform: in every one."""

    display_name: Annotated[Words, about("What the user is called by people.")] = ""
    email: Annotated[str, msgspec.Meta(pattern=r"\A([^@\s]{1,64}@[^@\s]{1,190})?\Z"), about("Where the user gets letters.")] = ""
    roles: Annotated[Roles, about("By organization the role there: viewer, operator, developer, admin.")] = msgspec.field(
        default_factory=dict
    )
    enabled: Annotated[bool, about("Whether the user can sign in and act.")] = True
    # Whom a provider of OpenID Connect knows the user as.
    issuer: Annotated[str, internal()] | None = None
    subject: Annotated[str, internal()] | None = None
    # Another one after each change of what the user may do: sessions of an earlier one have ended.
    generation: Annotated[int, internal()] = 0


UserEntry = Resource[User]
