"""The state of an organization's workflows: small values by key, each change of which is one transaction.

The rows are the truth: they are on no bus, and no projection (decision 0087).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.bounded import SharedPlaces
from shared.db import transaction
from shared.envelope import rfc3339
from shared.errors import Conflict, Invalid, NotFound, Problem, TooLarge, TooMany, Unavailable
from shared.leader import lead
from shared.questions.state import StateView
from shared.values import check

# Bytes of a value as JSON, and keys of an organization.
LARGEST, KEYS = 16 * 1024, 10_000
# Beyond these a number is not the same for every reader of JSON.
MOST_NUMBER = 2**53
# Seconds between two looks for values that have expired; until then they are there for nobody.
EVERY = 60.0
# Changes of one organization that one process makes at a time, and of all: fewer than it has connections, for those of one key wait
# for each other; and seconds that one waits for its turn.
AT_ONCE, ALTOGETHER, TURN = 2, 4, 30.0
# Rows that go at a time.
TOGETHER = 1000

_ALIVE = "(expires_at IS NULL OR expires_at > now())"
_COLUMNS = "key, value, version, updated_at, updated_by, expires_at"
_ONE = f"SELECT {_COLUMNS} FROM state WHERE org = :org AND key = :key AND {_ALIVE}"  # noqa: S608 - all ours
_PAGE = f"""
    SELECT {_COLUMNS} FROM state
     WHERE org = :org AND key > :after AND starts_with(key, :prefix) AND {_ALIVE} ORDER BY key LIMIT :limit
"""  # noqa: S608 - all ours
_LOCKED = f"SELECT {_COLUMNS}, change, {_ALIVE} AS alive FROM state WHERE org = :org AND key = :key FOR UPDATE"  # noqa: S608
_EXPIRY = "now() + make_interval(secs => CAST(:ttl AS double precision))"
_INSERT = f"""
    INSERT INTO state (org, key, value, version, updated_at, updated_by, change, expires_at)
    VALUES (:org, :key, :value, nextval('state_version'), now(), :by, :change, {_EXPIRY}) RETURNING {_COLUMNS}
"""  # noqa: S608 - all ours
_UPDATE = f"""
    UPDATE state SET value = :value, version = nextval('state_version'), updated_at = now(), updated_by = :by, change = :change,
                     expires_at = CASE WHEN :keeps THEN expires_at ELSE {_EXPIRY} END
     WHERE org = :org AND key = :key RETURNING {_COLUMNS}
"""  # noqa: S608 - all ours
_DELETE = "DELETE FROM state WHERE org = :org AND key = :key"
_COUNT = "SELECT count(*) FROM state WHERE org = :org"
_EXPIRED_OF = "DELETE FROM state WHERE org = :org AND expires_at <= now()"
_EXPIRED = f"DELETE FROM state WHERE ctid IN (SELECT ctid FROM state WHERE expires_at <= now() LIMIT {TOGETHER})"  # noqa: S608
# One at a time for each organization: two that count at once would both find room.
_MAKING = text("SELECT pg_advisory_xact_lock(hashtextextended('state ' || :org, 0))")

Decide = Callable[[StateView | None], Any]
"""Returns the new value for the one that is there, if there is one; or raises."""


class VersionConflict(Conflict):
    """Another version is there than the one that was expected."""


class StateChange(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a key: by whom, and its id, under which it is made once."""

    org: str
    key: str
    by: str
    id: str


def encoded(value: Any) -> str:
    """Return a value as it is stored. Raises `Invalid`, `TooLarge`."""
    check(value, "value")
    document = msgspec.json.encode(value)
    if len(document) > LARGEST:
        raise TooLarge(f"the value has {len(document)} bytes as JSON; at most {LARGEST} are kept of a key")
    return document.decode()


def checked_version(found: StateView | None, key: str, expected: int | None) -> None:
    """Raise `VersionConflict` where there is another version than the `expected` one, 0 for none."""
    there = 0 if found is None else found.version
    if expected is not None and there != expected:
        now = f"version {there} is there" if there else "it is not there"
        raise VersionConflict(f"{key!r} was expected {f'at version {expected}' if expected else 'not to be there'}: {now}")


def increased(found: StateView | None, key: str, by: int) -> int:
    """Return a number with `by` added, of one that is not there `by` itself. Raises `Invalid`."""
    value = 0 if found is None else found.value
    if isinstance(value, bool) or not isinstance(value, int):
        raise Invalid(f"{key!r} is no whole number: it cannot be incremented", errors=(Problem("key", "is no whole number"),))
    if abs(value + by) > MOST_NUMBER:
        raise Invalid(
            f"{key!r} would be beyond {MOST_NUMBER}, up to which whole numbers are kept", errors=(Problem("by", "too much"),)
        )
    return value + by


class States:
    """The values of all organizations. Every method raises `Unavailable` while the database is away."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._places = SharedPlaces(AT_ONCE, ALTOGETHER)

    async def get(self, org: str, key: str) -> StateView:
        """Return a value. Raises `NotFound`."""
        async with transaction(self._engine) as connection:
            row = (await connection.execute(text(_ONE), {"org": org, "key": key})).mappings().first()
        if row is None:
            raise NotFound(f"there is no {key!r} in the state")
        return _view(row)

    async def page(self, org: str, prefix: str, after: str, limit: int) -> list[StateView]:
        """Return values whose keys begin with `prefix`, by key, after a key."""
        given = {"org": org, "prefix": prefix, "after": after, "limit": limit}
        async with transaction(self._engine) as connection:
            return [_view(row) for row in (await connection.execute(text(_PAGE), given)).mappings()]

    async def put(self, change: StateChange, value: Any, expected: int | None, ttl: float | None) -> StateView:
        """Give a key a value. Raises `VersionConflict`, `Invalid`, `TooLarge`, `TooMany`."""
        document = encoded(value)

        def decide(found: StateView | None) -> str:
            checked_version(found, change.key, expected)
            return document

        return await self._change(change, decide, ttl, keeps=False)

    async def increment(self, change: StateChange, by: int, ttl: float | None) -> StateView:
        """Add to a number; `ttl` is for one that is made by it. Raises `Invalid`, `TooMany`."""
        return await self._change(change, lambda found: encoded(increased(found, change.key, by)), ttl, keeps=True)

    async def delete(self, change: StateChange, expected: int | None) -> bool:
        """Remove a key; returns whether it was there. Raises `VersionConflict`."""
        async with self._changing(change) as connection:
            found = await _locked(connection, change)
            alive = None if found is None or not found["alive"] else _view(found)
            checked_version(alive, change.key, expected)
            if found is not None:
                await connection.execute(text(_DELETE), {"org": change.org, "key": change.key})
        return alive is not None

    async def sweep(self, url: str) -> None:
        """Remove what has expired, for ever. Of several replicas, which share the database at `url`, one does."""
        await lead(
            self._expire,
            url=url,
            service="executor",
            lock="executor.state",
            pause=EVERY,
            full=TOGETHER,
            interrupted="state.interrupted",
        )

    @asynccontextmanager
    async def _changing(self, change: StateChange) -> AsyncIterator[AsyncConnection]:
        """Have a transaction for the block, when it is the organization's turn. Raises `Unavailable`."""
        try:
            async with self._places.turn(change.org, TURN), transaction(self._engine) as connection:
                yield connection
        except TimeoutError as error:
            raise Unavailable("many changes of the state wait for their turn") from error

    async def _expire(self) -> int:
        async with transaction(self._engine) as connection:
            return int((await connection.execute(text(_EXPIRED))).rowcount)

    async def _change(self, change: StateChange, decide: Decide, ttl: float | None, *, keeps: bool) -> StateView:
        given = {"org": change.org, "key": change.key, "by": change.by, "change": change.id, "ttl": ttl}
        async with self._changing(change) as connection:
            found = await _locked(connection, change)
            if found is None:
                await connection.execute(_MAKING, {"org": change.org})
                found = await _locked(connection, change)
            if found is not None and found["change"] == change.id:
                return _view(found)  # its answer was lost
            alive = None if found is None or not found["alive"] else _view(found)
            given["value"] = decide(alive)
            if found is None:
                await _check_room(connection, change.org)
                done = await connection.execute(text(_INSERT), given)
            else:
                done = await connection.execute(text(_UPDATE), given | {"keeps": keeps and alive is not None})
            return _view(done.mappings().one())


async def _locked(connection: AsyncConnection, change: StateChange) -> RowMapping | None:
    """Return the row of a key, which nobody else changes before the end of the transaction."""
    return (await connection.execute(text(_LOCKED), {"org": change.org, "key": change.key})).mappings().first()


async def _check_room(connection: AsyncConnection, org: str) -> None:
    """Raise `TooMany` where an organization has as many keys as it may."""
    count = (await connection.execute(text(_COUNT), {"org": org})).scalar_one()
    if count >= KEYS and count - (await connection.execute(text(_EXPIRED_OF), {"org": org})).rowcount >= KEYS:
        raise TooMany(f"the state of this organization has {KEYS} keys, the most that are kept: delete some, or have them expire")


def _view(row: RowMapping) -> StateView:
    return StateView(
        key=row["key"],
        value=msgspec.json.decode(row["value"]),
        version=row["version"],
        updated_at=rfc3339(row["updated_at"]),
        updated_by=row["updated_by"],
        expires_at=None if row["expires_at"] is None else rfc3339(row["expires_at"]),
    )
