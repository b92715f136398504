"""Links that are of use once: to become a user, or to set what a user signs in with. A row each, by the digest of the link."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.db import Connection, reading
from shared.envelope import new_id
from shared.resources.declaration import Role

RANDOM = 32

_MAKE = """
    INSERT INTO invitation (digest, id, org, role, actor, user_id, name, display_name, email, created_at, ends_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, now(), now() + make_interval(days => $10)) RETURNING *
"""
_FIND = "SELECT * FROM invitation WHERE digest = $1 AND ends_at > now()"
_PAGE = """
    SELECT * FROM invitation WHERE org = $1 AND user_id IS NULL AND id > $2 AND ends_at > now() ORDER BY id LIMIT $3
"""
_REMOVE = "DELETE FROM invitation WHERE org = $1 AND id = $2 AND user_id IS NULL AND ends_at > now() RETURNING id"
# Of several who use a link at once with different logins one goes on.
_SETTLE = """
    UPDATE invitation SET name = $2 WHERE digest = $1 AND ends_at > now() AND coalesce(name, $2) = $2 RETURNING id
"""
_RELEASE = "UPDATE invitation SET name = NULL WHERE digest = $1 AND name = $2"
_SPEND = "DELETE FROM invitation WHERE digest = $1 AND ends_at > now() RETURNING id"


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """To have a role in an organization; with `user_id`: for that user to sign in anew, whatever it signed in with.

    `name` is the login to be had, None: it may be chosen.
    """

    digest: bytes
    id: str
    org: str
    role: Role
    actor: str
    user_id: str | None
    name: str | None
    display_name: str
    email: str
    created_at: datetime
    ends_at: datetime


class Invitations:
    """The invitations of all organizations. Raises `Unavailable` while the database is away."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def make(
        self, *, org: str, role: Role, actor: str, user_id: str | None, name: str | None, display_name: str, email: str, days: int
    ) -> tuple[Invitation, str]:
        """Make an invitation; returns it with the token of its link, which is kept nowhere."""
        token, given = secrets.token_urlsafe(RANDOM), (org, role, actor, user_id, name, display_name, email, days)
        async with reading(self._engine) as connection:
            row = await connection.fetchrow(_MAKE, digest_of(token), new_id(), *given)
        assert row is not None  # noqa: S101 - it was inserted
        return Invitation(**row), token

    async def find(self, token: str) -> Invitation | None:
        """Return the invitation of a token, None where it is unknown, was used, or is over."""
        async with reading(self._engine) as connection:
            row = await connection.fetchrow(_FIND, digest_of(token))
        return None if row is None else Invitation(**row)

    async def page(self, org: str, after: str, limit: int) -> list[Invitation]:
        """Return an organization's open invitations, oldest first, after one of an id."""
        async with reading(self._engine) as connection:
            return [Invitation(**row) for row in await connection.fetch(_PAGE, org, after, limit)]

    async def remove(self, org: str, id_: str) -> bool:
        """Take an invitation of an organization back; False where there is none."""
        async with reading(self._engine) as connection:
            return bool(await connection.fetch(_REMOVE, org, id_))

    async def settle(self, token: str, name: str) -> bool:
        """Have an invitation be for one login from now on; False where it is for another one, was used, or is over."""
        async with reading(self._engine) as connection:
            return bool(await connection.fetch(_SETTLE, digest_of(token), name))

    async def release(self, token: str, name: str) -> None:
        """Have an invitation that was for this login be for any."""
        async with reading(self._engine) as connection:
            await connection.execute(_RELEASE, digest_of(token), name)

    async def spend(self, token: str, connection: Connection | None = None) -> bool:
        """Use an invitation up, in a transaction of the caller's if there is one; False where somebody else has."""
        if connection is not None:
            return bool(await connection.fetch(_SPEND, digest_of(token)))
        async with reading(self._engine) as own:
            return bool(await own.fetch(_SPEND, digest_of(token)))

    async def sweep(self) -> None:
        """Forget what is over: invitations, challenges, and failures of a day ago."""
        async with reading(self._engine) as connection:
            for statement in _SWEEP:
                await connection.execute(statement)


_SWEEP: tuple[Any, ...] = (
    "DELETE FROM invitation WHERE ends_at <= now()",
    "DELETE FROM challenge WHERE ends_at <= now()",
    "DELETE FROM failure WHERE until < now() AND last_at < now() - interval '1 day'",
)


def digest_of(token: str) -> bytes:
    """Return what is kept of the token of a link: one round, because it is 256 random bits."""
    return hashlib.sha256(token.encode(errors="replace")).digest()
