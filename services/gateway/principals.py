"""Who is calling: a key or a user, with a role in each organization; and the connections that go on in its name."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import get_args

import msgspec

from services.gateway.domain import DEFAULT_ORG
from shared.organizations import PLATFORM
from shared.resources.declaration import Role

# From the least to the most.
ROLES: tuple[Role, ...] = get_args(Role)


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """A caller: as audits name it, the organization that it belongs to, its role by organization, and what narrows it.

    `org` is `global` for one of the platform, and for a user of several organizations. A role in `global` is one in every
    organization. `id` is that of the key or the user, None for the platform key, and `digest` that of the value which it showed;
    from `until` on, in epoch seconds, it counts no more. `user` is the id of the user for whom a key acts, `generation` that user's
    or the user's own, by which changes are known. `nats`: a key that counts for NATS, and not here.
    """

    actor: str
    org: str
    roles: tuple[tuple[str, Role], ...]
    scopes: tuple[str, ...] = ()
    nats: bool = False
    id: str | None = None
    digest: bytes = b""
    until: float | None = None
    is_user: bool = False
    user: str | None = None
    generation: int = 0

    @property
    def default_org(self) -> str:
        """Return the organization that its requests mean which name none."""
        return DEFAULT_ORG if self.org == PLATFORM else self.org

    def role_in(self, org: str) -> Role | None:
        """Return what it may do in an organization, None where it is nobody there."""
        found = [role for of, role in self.roles if of in {org, PLATFORM}]
        return max(found, key=ROLES.index, default=None)

    def acts_for_platform(self, least: Role | None) -> bool:
        """Return whether its role in `global` alone is at least this one."""
        role = self.role_in(PLATFORM)
        return role is not None and (least is None or is_at_least(role, least))


def lesser(one: Role, other: Role | None) -> Role:
    """Return the role of the two that may do less; None is none."""
    return one if other is None else min(one, other, key=ROLES.index)


def is_at_least(role: Role, least: Role) -> bool:
    """Return whether one may do what `least` may."""
    return ROLES.index(role) >= ROLES.index(least)


class Streams:
    """Connections with an answer that goes on, by the caller in whose name it does."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._open: defaultdict[Principal, set[asyncio.Transport]] = defaultdict(set)

    def principals(self) -> list[Principal]:
        """Return those in whose name a connection goes on."""
        return list(self._open)

    def cut(self, ended: Callable[[Principal], bool]) -> None:
        """Cut the connections of the callers who have ended."""
        for principal in self.principals():
            if ended(principal):
                for transport in self._open.pop(principal):
                    transport.abort()

    @contextlib.contextmanager
    def during(self, principal: Principal, transport: asyncio.Transport | None) -> Iterator[None]:
        """Cut a connection if its caller ceases to count, or comes to mean something else, within the block."""
        if principal.id is None or transport is None:
            yield
            return
        ending = None
        if principal.until is not None:
            ending = asyncio.get_running_loop().call_later(max(0.0, principal.until - self._clock()), transport.abort)
        streams = self._open[principal]
        streams.add(transport)
        try:
            yield
        finally:
            streams.discard(transport)
            if not streams and self._open.get(principal) is streams:
                del self._open[principal]
            if ending is not None:
                ending.cancel()
