"""Turns: of the runs with one concurrency key at most so many go on at a time.

The rows here are the truth of whose turn it is; nobody begins without one. They are no projection: a run enters before it is
claimed, and leaves when its end has been read from the stream.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.db import transaction
from shared.messages import Turn

_ENTER = """
    INSERT INTO turn (run, key) SELECT :run, :key
     WHERE (SELECT count(*) FROM turn WHERE key = :key AND run <> :run) < :limit
    ON CONFLICT (run) DO UPDATE SET key = excluded.key RETURNING run
"""
_NEXT = """
    SELECT id FROM run WHERE turn = :key AND status = 'waiting' AND blocked_on = 'concurrency'
     ORDER BY rank, requested_at, id LIMIT :limit
"""
# Whoever was killed between a run's end and its leaving: the row of the run tells.
_LEFT_BEHIND = """
    DELETE FROM turn USING run WHERE run.id = turn.run AND run.finished_at IS NOT NULL RETURNING turn.key
"""


class Turns:
    """Whose turn it is. Every method raises `Unavailable` while the database is away."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def enter(self, run: str, turn: Turn) -> bool:
        """Take the run's turn if there is room; True also when it has it already."""
        async with transaction(self._engine) as connection:
            # One at a time per key: two that count at once would both find room.
            await connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 1))"), {"key": turn.key})
            entered = await connection.execute(text(_ENTER), {"run": run, "key": turn.key, "limit": turn.limit})
            return entered.first() is not None

    async def leave(self, run: str) -> None:
        """End the run's turn, if it has one."""
        async with transaction(self._engine) as connection:
            await connection.execute(text("DELETE FROM turn WHERE run = :run"), {"run": run})

    async def holders(self, key: str) -> list[str]:
        """Return the runs whose turn it is."""
        async with transaction(self._engine) as connection:
            rows = await connection.execute(text("SELECT run FROM turn WHERE key = :key"), {"key": key})
            return [row.run for row in rows]

    async def waiting(self, key: str, limit: int = 100) -> list[str]:
        """Return runs that wait for their turn, the next one first, as far as the rows tell yet."""
        async with transaction(self._engine) as connection:
            rows = await connection.execute(text(_NEXT), {"key": key, "limit": limit})
            return [row.id for row in rows]

    async def left_behind(self) -> set[str]:
        """End the turns of runs that have ended; returns the keys that this frees."""
        async with transaction(self._engine) as connection:
            return {row.key for row in await connection.execute(text(_LEFT_BEHIND))}

    async def free(self, limit: int = 1000) -> list[str]:
        """Return keys for which runs wait, and whose turn it is nobody's, or that of one who waits.

        The latter is what somebody leaves who is killed, or loses the broker, between giving a run its turn and telling it.
        """
        statement = """
            SELECT DISTINCT turn AS key FROM run WHERE status = 'waiting' AND blocked_on = 'concurrency'
               AND (NOT EXISTS (SELECT 1 FROM turn WHERE turn.key = run.turn)
                    OR EXISTS (SELECT 1 FROM turn WHERE turn.run = run.id)) LIMIT :limit
        """
        async with transaction(self._engine) as connection:
            return [row.key for row in await connection.execute(text(statement), {"limit": limit})]
