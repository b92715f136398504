"""The archive's partitions, one per day: made days ahead, and later for rows that arrived without one."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from services.logs import store
from shared.db import transaction
from shared.envelope import utc_now
from shared.errors import Unavailable
from shared.health import Health
from shared.leader import lead

# A service that is down over a long weekend and then writes its backlog must not begin with moving rows.
DAYS_AHEAD = 4
# Once a day is enough; hourly costs nothing.
EVERY = 3600.0
RETRY = 15.0

_log = structlog.get_logger()


async def keep_ahead(engine: AsyncEngine, health: Health, url: str) -> None:
    """Make partitions for ever, from soon after `make_first` on. Of several replicas, with one database at `url`, one does."""

    async def once() -> int:
        await _attempt(engine, health)
        return 0

    await lead(
        once,
        url=url,
        service="logs",
        lock="logs.partitions",
        pause=EVERY,
        first=RETRY,
        again=RETRY,
        interrupted="archive.partitions_not_made",
    )


async def make_first(engine: AsyncEngine, health: Health) -> None:
    """Make missing partitions, or report that it failed."""
    try:
        await _attempt(engine, health)
    except Unavailable as error:
        _log.warning("archive.partitions_not_made", reason=error.detail)


async def _attempt(engine: AsyncEngine, health: Health) -> None:
    """Make missing partitions. Raises `Unavailable`, which is no reason to be unready: the default partition takes the rows."""
    try:
        await make(engine, utc_now().date())
    except (Unavailable, DBAPIError) as error:
        health.state("partitions", "could not be made; the default partition takes the rows")
        raise Unavailable(f"{type(error).__name__}: {error}") from error
    health.state("partitions", "made")


async def make(engine: AsyncEngine, today: date) -> None:
    """Make the partitions from yesterday to `DAYS_AHEAD`, and of every day of which the default partition holds rows."""
    async with transaction(engine) as connection:
        waiting = await store.days_without_partition(connection)
    wanted = {today + timedelta(days=ahead) for ahead in range(-1, DAYS_AHEAD + 1)} | set(waiting)
    for day in sorted(wanted):
        await _make_day(engine, day)


def name_of(day: date) -> str:
    """Return the name of a day's partition."""
    return f"message_{day:%Y%m%d}"


async def _make_day(engine: AsyncEngine, day: date) -> None:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    end = start + timedelta(days=1)
    name = name_of(day)
    async with transaction(engine) as connection:
        # Another replica may be at it: its partition is found the next time.
        if not await store.claim_partitioning(connection) or name in await store.partitions(connection):
            return
        # No row may reach the default partition between the move and the moment when the new one takes over.
        await store.close_default(connection)
        await store.create_day(connection, name)
        await store.move_day(connection, name, start, end)
        await store.attach_day(connection, name, start, end)
