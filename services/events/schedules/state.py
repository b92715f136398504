"""How far each schedule has come. These rows are the truth, and no projection: they are written with the lock of their schedule.

Where they are lost, the ids of runs and events still keep a time from firing twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import delete, func, or_, outerjoin, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.events.schedules.plan import ScheduleState
from services.events.tables import resource, schedule_state
from shared.db import transaction
from shared.owners.rows import resource_of
from shared.resources.schedule import Firing, Schedule, ScheduleEntry

_R, _S = resource.c, schedule_state.c


@asynccontextmanager
async def held(engine: AsyncEngine, id_: str) -> AsyncIterator[AsyncConnection]:
    """Hold the lock of a schedule, in a transaction, for the block. Raises `Unavailable`."""
    async with transaction(engine) as connection:
        await connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(id_, 2))))
        yield connection


async def schedule_of(connection: AsyncConnection, id_: str) -> ScheduleEntry | None:
    """Return a schedule as it is now; None for one that was removed, or never was."""
    found = await connection.execute(select(resource).where(_R.noun == "schedule", _R.id == id_, ~_R.removed))
    row = found.mappings().first()
    return None if row is None else resource_of(row)


async def read(connection: AsyncConnection, id_: str) -> ScheduleState | None:
    """Return how far a schedule has come; None where nothing is known."""
    row = (await connection.execute(select(schedule_state).where(_S.id == id_))).mappings().first()
    if row is None:
        return None
    return ScheduleState(
        version=row["version"],
        spec=msgspec.convert(row["spec"], Schedule),
        handled_until=row["handled_until"],
        next_at=row["next_at"],
        last=_firing(row["last"]),
        last_run=row["last_run"],
    )


async def write(connection: AsyncConnection, id_: str, state: ScheduleState) -> None:
    """Record how far a schedule has come."""
    values = msgspec.structs.asdict(state) | {
        "spec": msgspec.to_builtins(state.spec),
        "last": None if state.last is None else msgspec.to_builtins(state.last),
    }
    await connection.execute(
        insert(schedule_state).values(id=id_, **values).on_conflict_do_update(index_elements=["id"], set_=values)
    )


async def forget(connection: AsyncConnection, id_: str) -> None:
    """Forget a schedule that was removed."""
    await connection.execute(delete(schedule_state).where(_S.id == id_))


async def overdue(engine: AsyncEngine, now: datetime, late: timedelta, limit: int) -> list[str]:
    """Return schedules that should have been looked at: their time has passed by `late`, or they are new or changed."""
    of = outerjoin(resource, schedule_state, _R.id == _S.id)
    left = or_(_S.id.is_(None), _S.version < _R.version, _S.next_at < now - late)
    found = select(_R.id).select_from(of).where(_R.noun == "schedule", ~_R.removed, left).order_by(_S.next_at).limit(limit)
    async with transaction(engine) as connection:
        return list((await connection.execute(found)).scalars())


async def last(engine: AsyncEngine, ids: Collection[str]) -> dict[str, Firing | None]:
    """Return of each schedule what became of its last time."""
    found = select(_S.id, _S.last).where(_S.id.in_(ids))
    async with transaction(engine) as connection:
        return {id_: _firing(stored) for id_, stored in await connection.execute(found)}


def _firing(stored: dict[str, Any] | None) -> Firing | None:
    return None if stored is None else msgspec.convert(stored, Firing)
