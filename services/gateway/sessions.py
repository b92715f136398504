"""Sessions of users in browsers: a row each, found by the digest of what the browser's cookie holds."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import NamedTuple

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.principals import Principal
from services.gateway.users import Users
from shared.db import reading
from shared.errors import Unavailable
from shared.resources.user import Method, UserEntry

# Bytes of randomness in a cookie.
RANDOM = 32
# Seconds between two looks at the sessions with an answer that goes on, and at those that are over.
WATCH_EVERY, SWEEP_EVERY = 1.0, 60.0
# A session that was used within so small a part of its idle time is not written again.
FRESH = 60

# Is told of a session that ended by itself: of which user, None where that is gone, of which id, and why.
Ended = Callable[[UserEntry | None, str, str], Awaitable[None]]

_log = structlog.get_logger()

# What was not used for $2 seconds is over. The time is the database's: that of the gateways may differ.
_FIND = """
    WITH used AS (
        UPDATE session SET seen_at = now() WHERE digest = $1 AND ends_at > now()
        AND seen_at > now() - make_interval(secs => $2) AND seen_at < now() - make_interval(secs => $2 / 60))
    SELECT user_id, generation, method, ends_at, ends_at <= now() OR seen_at <= now() - make_interval(secs => $2) AS is_over,
        created_at > now() - interval '15 minutes' AS is_fresh FROM session WHERE digest = $1
"""
# Where a user has shown a row, that is held until the session is there: whoever replaces it ends the session, or none is opened.
_OPEN = """
    INSERT INTO session (digest, user_id, generation, method, created_at, seen_at, ends_at)
    SELECT $1, $2, $3, $4, now(), now(), now() + make_interval(secs => $5) {} RETURNING ends_at
"""
_OPEN_BY = _OPEN.format("FROM (SELECT 1 FROM credential WHERE id = $6 AND secret = $7 FOR SHARE) AS shown")
_OPEN = _OPEN.format("")
_GOING_ON = """
    SELECT digest FROM session
    WHERE digest = ANY($1) AND ends_at > now() AND seen_at > now() - make_interval(secs => $2)
"""
_SWEEP = """
    DELETE FROM session WHERE ends_at <= now() OR seen_at <= now() - make_interval(secs => $1)
    RETURNING user_id, CASE WHEN ends_at <= now() THEN 'expired' ELSE 'idle' END AS reason
"""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A session that is known: whose it is, as a caller, and how the user has signed in.

    `is_over`: it counts no more; `is_fresh`: it was opened just now.
    """

    user: UserEntry
    principal: Principal
    method: Method
    is_over: bool
    is_fresh: bool


class Proof(NamedTuple):
    """What a user has shown to sign in, where that is a row: its id and its secret, as they have to be when a session opens."""

    method: Method
    credential: str
    secret: str


class OpenedSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session that was opened: the value of its cookie, and its end."""

    value: str
    until: datetime

    def __repr__(self) -> str:
        """Show nothing: a repr ends up in logs."""
        return "OpenedSession(...)"


def digest_of(value: str) -> bytes:
    """Return the digest by which a session is known: one round, as of a key, because the value is 256 random bits."""
    return hashlib.sha256(value.encode()).digest()


def csrf_of(value: str) -> str:
    """Return the token that a change by a session has to show: only who has the cookie, or was told it, knows it."""
    made = hmac.digest(value.encode(), b"csrf", "sha256")
    return base64.urlsafe_b64encode(made).rstrip(b"=").decode()


def is_csrf_of(value: str, token: str) -> bool:
    """Return whether a token is that of a session; takes as long for any token."""
    return hmac.compare_digest(token.encode(errors="replace"), csrf_of(value).encode())


class Sessions:
    """The sessions of all users; `idle` and `longest` are seconds. Raises `Unavailable` while the database is away."""

    def __init__(self, engine: AsyncEngine, users: Users, *, idle: int, longest: int) -> None:
        self._engine = engine
        self._users = users
        self._idle = float(idle)
        self._longest = float(longest)

    async def open(self, user: UserEntry, method: Method, proof: Proof | None = None) -> OpenedSession | None:
        """Open a session of a user, who was known to be one in the state that is given; None where the proof holds no more."""
        value = secrets.token_urlsafe(RANDOM)
        given = (digest_of(value), user.id, user.spec.generation, method, self._longest)
        async with reading(self._engine) as connection:
            if proof is None:
                until = await connection.fetchval(_OPEN, *given)
            else:
                until = await connection.fetchval(_OPEN_BY, *given, proof.credential, proof.secret)
        return None if until is None else OpenedSession(value=value, until=until)

    async def find(self, value: str) -> Session | None:
        """Return the session of a cookie, None where none is known, or its user is no more what it was. One statement."""
        digest = digest_of(value)
        async with reading(self._engine) as connection:
            row = await connection.fetchrow(_FIND, digest, self._idle)
        user = None if row is None else self._users.by_id(row["user_id"])
        if row is None or user is None or not counts(user, row["generation"]):
            return None
        principal = self._users.principal(user, digest, row["ends_at"].timestamp())
        return Session(user=user, principal=principal, method=row["method"], is_over=row["is_over"], is_fresh=row["is_fresh"])

    async def end(self, digest: bytes) -> bool:
        """End a session; False where it had ended."""
        return bool(await self._deleted("DELETE FROM session WHERE digest = $1 RETURNING digest", digest))

    async def end_all(self, user_id: str, *, but: bytes = b"") -> int:
        """End all sessions of a user but the one with a digest; return how many there were."""
        return await self._deleted("DELETE FROM session WHERE user_id = $1 AND digest <> $2 RETURNING digest", user_id, but)

    async def run(self, ended: Ended, sweep: Callable[[], Awaitable[None]]) -> None:
        """Cut what goes on in the name of ended sessions, and take these away, for ever. `ended` is told whose and why.

        `sweep` takes away what else is over.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(_again(WATCH_EVERY, self.watch))
            group.create_task(_again(SWEEP_EVERY, lambda: self.sweep(ended)))
            group.create_task(_again(SWEEP_EVERY, sweep))

    async def watch(self) -> None:
        """Cut the connections of sessions that have ended. One statement, none where no connection goes on.

        While the database is away nobody signs out; who is changed or removed meanwhile is known from the registry.
        """
        open_ = [one for one in self._users.streams.principals() if one.is_user]
        if not open_:
            return
        async with reading(self._engine) as connection:
            rows = await connection.fetch(_GOING_ON, [one.digest for one in open_], self._idle)
        going_on = {row["digest"] for row in rows}
        # Of those that were asked about: another one may have begun meanwhile.
        ended = {one.digest for one in open_} - going_on
        self._users.streams.cut(lambda of: of.digest in ended)

    async def sweep(self, ended: Ended) -> None:
        """Take away sessions that are over, or whose user is no more what it was; each is told of by one gateway."""
        async with reading(self._engine) as connection:
            over = [(row["user_id"], row["reason"]) for row in await connection.fetch(_SWEEP, self._idle)]
            rows = await connection.fetch("SELECT DISTINCT user_id, generation FROM session")
        for user_id, generation in rows:
            entry = self._users.get(user_id)
            # A user, or a generation, that is not known here yet is another gateway's to judge.
            if entry is not None and (entry.value is None or entry.value.spec.generation > generation):
                statement = "DELETE FROM session WHERE user_id = $1 AND generation = $2 RETURNING digest"
                over += [(user_id, "changed")] * await self._deleted(statement, user_id, generation)
        for user_id, reason in over:
            found = self._users.get(user_id)
            await ended(None if found is None else found.value, user_id, reason)

    async def _deleted(self, statement: str, *values: object) -> int:
        async with reading(self._engine) as connection:
            return len(await connection.fetch(statement, *values))


def counts(user: UserEntry, generation: int) -> bool:
    """Return whether a session that a user of this generation opened goes on."""
    return user.spec.enabled and user.spec.generation == generation


async def _again(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except Unavailable as error:
            _log.warning("sessions.interrupted", reason=error.detail)
