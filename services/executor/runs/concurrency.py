"""Concurrency slots: of the runs with one concurrency key at most so many go on at a time.

The rows here are the truth of who has a slot; no run with a key begins without one. They are no projection: a run enters before it
is claimed, and leaves when its end has been read from the stream.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.db import transaction
from shared.messages import ConcurrencySlot

_ENTER = """
    INSERT INTO concurrency_slot (run, key) SELECT :run, :key
     WHERE (SELECT count(*) FROM concurrency_slot WHERE key = :key AND run <> :run) < :limit
    ON CONFLICT (run) DO UPDATE SET key = excluded.key RETURNING run
"""
_NEXT = """
    SELECT id FROM run WHERE concurrency_key = :key AND status = 'waiting' AND blocked_on = 'concurrency'
     ORDER BY rank, requested_at, id LIMIT :limit
"""
# A process may be killed between a run's end and its leaving: the row of the run tells.
_LEFT_BEHIND = """
    DELETE FROM concurrency_slot AS slot USING run WHERE run.id = slot.run AND run.finished_at IS NOT NULL RETURNING slot.key
"""


class ConcurrencySlots:
    """Slots and the runs that hold them. Every method raises `Unavailable` while the database is away."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def enter(self, run: str, slot: ConcurrencySlot) -> bool:
        """Take a slot for the run if one is free; True also when it has one already."""
        async with transaction(self._engine) as connection:
            # One at a time per key: two that count at once would both find a free one.
            await connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 1))"), {"key": slot.key})
            entered = await connection.execute(text(_ENTER), {"run": run, "key": slot.key, "limit": slot.limit})
            return entered.first() is not None

    async def leave(self, run: str) -> None:
        """Free the run's slot, if it has one."""
        async with transaction(self._engine) as connection:
            await connection.execute(text("DELETE FROM concurrency_slot WHERE run = :run"), {"run": run})

    async def holders(self, key: str) -> list[str]:
        """Return the runs that have a slot."""
        async with transaction(self._engine) as connection:
            rows = await connection.execute(text("SELECT run FROM concurrency_slot WHERE key = :key"), {"key": key})
            return [row.run for row in rows]

    async def waiting(self, key: str, limit: int = 100) -> list[str]:
        """Return runs that wait for a slot, the next one first, as far as the rows tell yet."""
        async with transaction(self._engine) as connection:
            rows = await connection.execute(text(_NEXT), {"key": key, "limit": limit})
            return [row.id for row in rows]

    async def left_behind(self) -> set[str]:
        """Free the slots of runs that have ended; returns the keys that this frees."""
        async with transaction(self._engine) as connection:
            return {row.key for row in await connection.execute(text(_LEFT_BEHIND))}

    async def free(self, limit: int = 1000) -> list[str]:
        """Return keys for which runs wait and nobody has a slot, or a run has one that still waits.

        The latter is what somebody leaves who is killed, or loses the broker, between giving a run its slot and resuming it.
        """
        statement = """
            SELECT DISTINCT concurrency_key AS key FROM run WHERE status = 'waiting' AND blocked_on = 'concurrency'
               AND (NOT EXISTS (SELECT 1 FROM concurrency_slot AS slot WHERE slot.key = run.concurrency_key)
                    OR EXISTS (SELECT 1 FROM concurrency_slot AS slot WHERE slot.run = run.id)) LIMIT :limit
        """
        async with transaction(self._engine) as connection:
            return [row.key for row in await connection.execute(text(statement), {"limit": limit})]
