"""Schedules over days, by clocks that the test moves: two replicas with the real broker and database, of which one is killed."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from sqlalchemy import insert

from services.events.schedules.firing import Scheduler
from services.events.schedules.plan import PUNCTUAL
from services.events.tables import resource
from shared.db import open_engine, transaction
from shared.health import Health
from shared.messages.catalog import Policy
from shared.questions.workflows import WorkflowEntry
from shared.quotas import Limits, Quotas
from shared.resources.schedule import CatchUp, Schedule
from tests.integration.test_schedules import firings, requested
from tests.support.inside import bus_of
from tests.support.plain_calendar import DAILY, minutes, plain
from tests.support.river import Outside
from tests.support.servers import Place

HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
POLICIES: tuple[CatchUp, ...] = ("none", "one", "all")
# A zone, the hours of its change, and expressions of the hours around it.
CHANGES = [
    ("Europe/Vienna", datetime(2026, 3, 29, 1, tzinfo=UTC), ("30 2 * * *", "*/20 2 * * *")),
    ("Europe/Vienna", datetime(2026, 10, 25, 1, tzinfo=UTC), ("30 2 * * *", "*/20 2 * * *")),
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 15, tzinfo=UTC), ("15,45 1,2 * * *", "*/7 * * * *")),
]


async def workflow(_org: str, name: str) -> WorkflowEntry:
    """Return a workflow that takes anything."""
    about = {"org": "default", "name": name, "version": "v", "module": "m", "function": "f", "path": "m.py", "line": 1, "doc": ""}
    return WorkflowEntry(
        **about, input_schema={}, timeout=60.0, retries=0, concurrency=None, updated_at="2026-01-01T00:00:00Z", policy=Policy()
    )


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)


@asynccontextmanager
async def replica(place: Place, clock: Clock) -> AsyncIterator[Scheduler]:
    """Run what looks at schedules, and nothing that follows real time."""
    url = place.database_url("events")
    engine = open_engine(url, service="events")
    try:
        async with bus_of(place, "events") as bus:
            quotas = Quotas(bus.client, Health("events"), Limits())
            deps: Any = SimpleNamespace(engine=engine, bus=bus, database_url=url, workflow=workflow, quotas=quotas)
            yield Scheduler(deps, now=lambda: clock.now)
    finally:
        await engine.dispose()


async def put(place: Place, name: str, spec: Schedule, at: datetime) -> None:
    """Record a schedule as it was put at a time of the test's own."""
    engine = open_engine(place.database_url("events"), service="events")
    row = {"noun": "schedule", "org": "default", "name": name, "key": name, "spec": msgspec.to_builtins(spec), "refs": {}}
    try:
        async with transaction(engine) as connection:
            await connection.execute(insert(resource).values(**row, id=name, sealed={}, created_at=at, updated_at=at, version=1))
    finally:
        await engine.dispose()


@pytest.mark.parametrize(("zone", "change", "expressions"), CHANGES)
async def test_each_time_around_a_change_of_the_clocks_fires_once_or_as_the_policy_has_it(
    place: Place, zone: str, change: datetime, expressions: tuple[str, ...]
) -> None:
    drawn = random.Random(f"{zone} {change}")
    begin, end = change - 3 * HOUR, change + 5 * HOUR
    calendar = minutes(ZoneInfo(zone), begin, end)
    wanted: dict[str, list[datetime]] = {}
    every: dict[str, list[datetime]] = {}
    clock = Clock()
    for number, expression in enumerate(expressions):
        for catch_up in POLICIES:
            name = f"{catch_up}-{number}"
            await put(
                place, name, Schedule(cron=expression, timezone=zone, workflow="w", catch_up=catch_up, overlap="allow"), begin
            )
            every[name] = [at for at in plain(expression, calendar, daily=expression in DAILY) if at > begin]
            wanted[name] = []
    async with replica(place, clock) as first, replica(place, clock) as second, bus_of(place, "gateway") as bus:
        clock.now = handled = begin
        cut = 0
        while clock.now < end:
            # Mostly a timer that is punctual or a little late; now and then nobody is there for some hours.
            due = [min((at for at in times if at > handled), default=end) for times in every.values()]
            clock.now = min(due) + drawn.choice([0 * SECOND, SECOND, 50 * SECOND, 20 * MINUTE, 2 * HOUR])
            for name in drawn.sample(sorted(every), len(every)):
                one, other = drawn.sample([first, second], 2)
                # Both look at the same moment; one is killed within it, wherever it is by then.
                killed, survivor = asyncio.create_task(one.look_at(name)), asyncio.create_task(other.look_at(name))
                await asyncio.sleep(drawn.uniform(0, 0.006))
                cut += killed.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await killed
                await survivor
                found = [at for at in every[name] if handled < at <= clock.now]
                punctual = [at for at in found if at >= clock.now - PUNCTUAL]
                wanted[name] += {"none": punctual, "one": punctual or found[-1:], "all": found}[name.partition("-")[0]]
            handled = clock.now
        assert cut
        outside = Outside(place, bus)
        for name, times in wanted.items():
            runs = [datetime.fromisoformat(one.scheduled_for or "") for one in await requested(outside, name)]
            assert runs == times, name
            told = [datetime.fromisoformat(at) for outcome, at in await firings(place, name) if outcome == "fired"]
            assert told == times, name
