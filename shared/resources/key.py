"""Keys: what clients of the API show to be known."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from shared.resources.declaration import Resource, Role, Spec, about, internal, resource
from shared.resources.shapes import Burst, Moment, PerSecond
from shared.values import Instant

Scope = Annotated[str, msgspec.Meta(pattern=r"\A([a-z][a-z-]{0,39}|(workflow|source):[^\x00-\x1f]{1,200})\Z")]
"""A group of endpoints, or the endpoints of one workflow or source."""


class KeyAdds(msgspec.Struct, frozen=True):
    """How it begins, when it was last used, to a minute or so, and whether it still counts.

    `key` is the key itself, in the answer to its creation and to its rotation, and null in every other. The value before the last
    rotation counts until `previous_until`. `login` is the machine that it was given to by a sign-in of the command,
    `user` who signed in there: the key may do no more than that user may.
    """

    prefix: str
    status: Literal["active", "expired"]
    last_used_at: Moment | None
    rotated_at: Moment | None
    previous_until: Moment | None
    login: str | None
    user: str | None
    key: str | None = None


@resource(
    "key",
    plural="keys",
    owner="gateway",
    read="admin",
    write="admin",
    registered=("gateway",),
    # All of every organization are held in memory at each gateway.
    most=1000,
    columns=("name", "role", "scopes", "prefix", "status", "expires_at", "last_used_at"),
    adds=KeyAdds,
    example={"role": "operator", "scopes": ["runs", "workflow:orders"]},
)
class ApiKey(Spec, frozen=True, kw_only=True):
    """A key of an organization, or, in `global`, of the platform: those act in every organization.

    It may do what its role may, and where it has scopes only what one of them names. It is shown once, when it is made.
    """

    role: Annotated[Role, about("What it may do: viewer, operator, developer, admin.")]
    scopes: Annotated[
        list[Scope],
        msgspec.Meta(max_length=100),
        about("What it is narrowed to: groups of endpoints (`runs`), `workflow:NAME`, `source:NAME`; without any it is not."),
    ] = msgspec.field(default_factory=list)
    expires_at: (
        Annotated[Instant, msgspec.Meta(extra_json_schema={"format": "date-time"}), about("From when on it counts no more.")] | None
    ) = None
    rate: Annotated[PerSecond, about("Requests a second in the long run; beyond it they are answered 429.")] | None = None
    burst: Annotated[Burst, about("How many at once after a rest; else those of a second.")] | None = None
    # The SHA-256 of the key, and of the one before, in hexadecimal: 256 random bits cannot be guessed from it.
    digest: Annotated[str, internal()] = ""
    prefix: Annotated[str, internal()] = ""
    rotated_at: Annotated[str, internal()] | None = None
    previous: Annotated[str, internal()] | None = None
    previous_until: Annotated[str, internal()] | None = None
    # The machine and the address that asked for it, where it is of a sign-in of the command.
    login: Annotated[str, internal()] | None = None
    # The id of the user for whom it acts.
    user: Annotated[str, internal()] | None = None


KeyEntry = Resource[ApiKey]
