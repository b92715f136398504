"""Concurrency slots: of the runs with one concurrency key at most so many go on at a time.

The rows here are the truth about slots; no run with a key begins without one. They are no projection: a run enters before it
is claimed, and leaves when its end has been read from the stream.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Text, delete, exists, func, or_, outerjoin, select, text, union
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.executor.tables import WAITS_FOR_SLOT, concurrency_slot, run
from shared.db import transaction
from shared.messages import ConcurrencySlot
from shared.statements import Compiled, overwriting, parameter

_S, _R = concurrency_slot.c, run.c
_RUN, _KEY, _LIMIT = parameter("run", Text), parameter("key", Text), parameter("limit", BigInteger)
_OTHERS = select(func.count()).where(_S.key == _KEY, _S.run != _RUN).scalar_subquery()
_ENTERING = insert(concurrency_slot).from_select(["run", "key"], select(_RUN, _KEY).where(_OTHERS < _LIMIT))
_ENTER = Compiled(overwriting(_ENTERING, "key").returning(_S.run))
_LEAVE = Compiled(delete(concurrency_slot).where(_S.run == _RUN))
_HOLDERS = Compiled(select(_S.run).where(_S.key == _KEY))
_NEXT = Compiled(
    select(_R.id).where(_R.concurrency_key == _KEY, WAITS_FOR_SLOT).order_by(_R.rank, _R.requested_at, _R.id).limit(_LIMIT)
)
# In one statement: a run gets its slot before it waits no more.
_WAITING = select(_R.id, _R.requested_at).where(_R.concurrency_key == _KEY, WAITS_FOR_SLOT)
_HOLDING = select(_S.run, _R.requested_at).select_from(outerjoin(concurrency_slot, run, _R.id == _S.run)).where(_S.key == _KEY)
_ALL = Compiled(union(_WAITING, _HOLDING))
# A process may be killed between a run's end and its leaving: the row of the run shows it.
_LEFT_BEHIND = Compiled(delete(concurrency_slot).where(_R.id == _S.run, _R.finished_at.is_not(None)).returning(_S.key))
_NOBODY_HAS_ONE = ~exists().where(_S.key == _R.concurrency_key)
_FREE = Compiled(
    select(_R.concurrency_key.label("key"))
    .distinct()
    .where(WAITS_FOR_SLOT, or_(_NOBODY_HAS_ONE, exists().where(_S.run == _R.id)))
    .limit(_LIMIT)
)


class ConcurrencySlots:
    """Slots and the runs that hold them. Every method raises `Unavailable` while the database is away."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def enter(self, run: str, slot: ConcurrencySlot) -> bool:
        """Take a slot for the run if one is free; True also when it has one already."""
        async with transaction(self._engine) as connection:
            # One at a time per key: two that count at once would both find a free one.
            await connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 1))"), {"key": slot.key})
            entered = await connection.exec_driver_sql(*_ENTER(run=run, key=slot.key, limit=slot.limit))
            return entered.first() is not None

    async def leave(self, run: str) -> None:
        """Free the run's slot, if it has one."""
        await _LEAVE(run=run).read(self._engine)

    async def holders(self, key: str) -> list[str]:
        """Return the runs that have a slot."""
        return [row["run"] for row in await _HOLDERS(key=key).read(self._engine)]

    async def waiting(self, key: str, limit: int = 100) -> list[str]:
        """Return runs that wait for a slot, the next one first, as far as the rows are written."""
        return [row["id"] for row in await _NEXT(key=key, limit=limit).read(self._engine)]

    async def others(self, key: str, but: str) -> list[tuple[str, datetime | None]]:
        """Return all runs but one that wait for a slot or have one, with the times of their requests, as far as the rows tell."""
        return [(row["id"], row["requested_at"]) for row in await _ALL(key=key).read(self._engine) if row["id"] != but]

    async def left_behind(self) -> set[str]:
        """Free the slots of runs that have ended; returns the keys that this frees."""
        return {row["key"] for row in await _LEFT_BEHIND().read(self._engine)}

    async def free(self, limit: int = 1000) -> list[str]:
        """Return keys for which runs wait and no run has a slot, or a run has one that still waits.

        The latter is left by a process that is killed, or loses the broker, between giving a run its slot and resuming it.
        """
        return [row["key"] for row in await _FREE(limit=limit).read(self._engine)]
