"""Keys: what clients of the API show to be known."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, Literal

import msgspec

from shared.resources.declaration import Resource, Role, Spec, about, internal, resource
from shared.resources.shapes import Burst, Moment, PerSecond
from shared.values import Instant

Scope = Annotated[str, msgspec.Meta(pattern=r"\A([a-z][a-z-]{0,39}|(workflow|source):[^\x00-\x1f]{1,200})\Z")]
"""A group of endpoints, or the endpoints of one workflow or source."""
Subject = Annotated[str, msgspec.Meta(max_length=200, pattern=r"\A[a-z]+(\.(\*|[A-Za-z0-9_-]{1,64}))*(\.>)?\Z")]
"""Subjects of the bus as a NATS pattern."""


class KeyAdds(msgspec.Struct, frozen=True):
    """How it begins, when it was last used, to a minute or so, and whether it still counts.

    `key` is the key itself, in the answer to its creation and to its rotation, and null in every other. The value before the last
    rotation counts until `previous_until`. `login` is the machine that it was given to by a sign-in of the command,
    `user` who signed in there: the key may do no more than that user may. `nats_url` is where a key for NATS counts,
    without the key.
    """

    prefix: str
    status: Literal["active", "expired"]
    last_used_at: Moment | None
    rotated_at: Moment | None
    previous_until: Moment | None
    login: str | None
    user: str | None
    nats_url: str | None = None
    key: str | None = None


@resource(
    "key",
    plural="keys",
    owner="gateway",
    read="admin",
    write="admin",
    registered=("gateway", "logs"),
    # All of every organization are held in memory at each gateway.
    most=1000,
    columns=("name", "role", "scopes", "prefix", "status", "expires_at", "last_used_at"),
    adds=KeyAdds,
    example={"role": "operator", "scopes": ["runs", "workflow:orders"]},
)
class ApiKey(Spec, frozen=True, kw_only=True):
    """A key of an organization, or, in `global`, of the platform: those act in every organization.

    It may do what its role may, and where it has scopes only what one of them names. It is shown once, when it is made.
    One for NATS reads messages there, as they come, and does nothing else.
    """

    role: Annotated[Role, about("What it may do: viewer, operator, developer, admin.")] = "viewer"
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
    nats: Annotated[bool, about("For NATS: it reads messages there as they come, and is of no use to the API.")] = False
    subjects: Annotated[
        list[Subject],
        msgspec.Meta(max_length=50),
        about("What a key for NATS reads: subjects such as `run.*.failed`; all where none is given."),
    ] = msgspec.field(default_factory=list)
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


def digest_of(text: str) -> bytes:
    """Return the digest by which a key is known.

    One round of SHA-256: what it hides is 256 random bits, and no password that a slow hash would have to protect from guessing.
    """
    return hashlib.sha256(text.encode(errors="replace")).digest()


def values_of(key: ApiKey) -> dict[bytes, float | None]:
    """Return the digests of the values of a key, each with the time from which on it counts no more, in epoch seconds.

    They are the present one, and the one before where that was given time.
    """
    until = _epoch(key.expires_at)
    ends = {key.digest: until}
    if key.previous is not None and key.previous_until is not None:
        ends[key.previous] = min(one for one in (until, _epoch(key.previous_until)) if one is not None)
    return {bytes.fromhex(text): end for text, end in ends.items()}


def _epoch(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()
