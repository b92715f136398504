"""What follows from other content and is made anew of it: registries of the catalog, timers of what waits for a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import asyncpg
import structlog
from nats.aio.client import Client

from deploy.positions import pending
from deploy.rebuild.parts import Part
from shared import tasks
from shared.commit import Journal
from shared.envelope import rfc3339, seal, utc_now
from shared.errors import Unavailable
from shared.messages.timer import TimerSet
from shared.ordered_reader import OrderedReader
from shared.projected import Projected
from shared.projection import incarnation_of
from shared.pull import Delivered, StreamError

CATALOG = "CATALOG"
# The projection of each service that keeps the registries of what it owns; others read the stream as well.
PROJECTION = "catalog"
AT_ONCE = 50
# The runs and schedules that are to be looked at again at a time. Groups of held events are looked at when the services start.
_DUE = """
    SELECT id AS key, org, 'executor' AS owner, due_at AS at FROM executor.run WHERE due_at IS NOT NULL
    UNION ALL
    SELECT s.id, r.org, 'events', s.next_at FROM events.schedule_state s JOIN events.resource r ON r.id = s.id
     WHERE s.next_at IS NOT NULL AND NOT r.removed
"""
_log = structlog.get_logger()


async def registries(parts: Iterable[Part], admin: Client, connection: asyncpg.Connection[Any]) -> int:
    """Put the last messages of everything in the catalog into the registries, as their owners do; return how many.

    An entry is replaced by a newer one only: registries that are well stay as they are. Raises `Unavailable`, `StreamError`.
    """
    count = 0
    for part in parts:
        for one in part.projections:
            if one.name == PROJECTION:
                count += await _registered(part, one, admin, connection)
    return count


async def _registered(part: Part, one: Projected, admin: Client, connection: asyncpg.Connection[Any]) -> int:
    if not await pending(admin, CATALOG, one.filters, 0):
        return 0
    incarnation = await incarnation_of(part.client, CATALOG)

    async def take(delivered: Delivered) -> None:
        try:
            # Its rows are there: only what it puts into registries is wanted.
            await one.apply([delivered], incarnation, connection)
        except (Unavailable, StreamError):
            raise
        except Exception as error:
            # The projection kept it, or passed it over, in its time.
            _log.warning("rebuild.passed_over", sequence=delivered.sequence, reason=f"{type(error).__name__}: {error}")

    count = 0
    batches = OrderedReader(part.client, CATALOG, filters=one.filters, start="last_per_subject").batches()
    async with contextlib.aclosing(batches):
        async for batch in batches:
            await tasks.each(AT_ONCE, batch, take)
            count += len(batch)
            if batch[-1].pending == 0:
                break
    return count


async def timers(admin: Client, connection: asyncpg.Connection[Any]) -> int:
    """Set the timer of every run and schedule that waits for a time; return how many. Rows must be up to date.

    One that is there is replaced; one whose time is over fires at once, which is one look too many.
    """
    journal = Journal(admin)

    async def set_timer(row: asyncpg.Record) -> None:
        message = TimerSet(key=row["key"], owner=row["owner"], at=rfc3339(row["at"]))
        await journal.publish(seal(message, service=row["owner"], org=row["org"], now=utc_now()))

    return len(await tasks.each(AT_ONCE, await connection.fetch(_DUE), set_timer))
