"""Questions and commands in: when a schedule fires next, and firing it now."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

from services.events.schedules import plan
from services.events.schedules.firing import Scheduler
from shared.asking import Questions
from shared.envelope import rfc3339, utc_now
from shared.errors import Conflict, Invalid, NotFound
from shared.owners.rows import ResourceRows
from shared.questions.events import AllFirings, NextFirings, PlannedSchedule, PlannedTime, RunSchedule, ScheduleRun
from shared.resources import KINDS
from shared.resources.schedule import ScheduleEntry

# As many as an organization may have.
MOST = KINDS["schedule"].most or 1000


class ScheduleDeps(Protocol):
    """Dependencies of these questions and commands."""

    resources: ResourceRows
    scheduler: Scheduler


async def next_firings(asked: NextFirings, deps: ScheduleDeps) -> list[PlannedTime]:
    """Return the next times of a schedule."""
    spec = (await _named(asked.org, asked.name, deps)).spec
    zone = ZoneInfo(spec.timezone)
    times = plan.following(spec, utc_now(), asked.n)
    return [PlannedTime(at=rfc3339(one), local=one.astimezone(zone).isoformat()) for one in times]


async def all_firings(asked: AllFirings, deps: ScheduleDeps) -> list[PlannedSchedule]:
    """Return the times of all schedules that are switched on, within a stretch of time."""
    now = utc_now()
    found = await deps.resources.page("schedule", asked.org, "", MOST)
    planned = await asyncio.to_thread(plan.within, found, now, now + timedelta(hours=asked.hours))
    return [PlannedSchedule(name, [rfc3339(one) for one in times], more) for name, times, more in planned]


async def run_schedule(command: RunSchedule, deps: ScheduleDeps) -> ScheduleRun:
    """Fire a schedule now."""
    schedule = await _named(command.org, command.name, deps)
    firing = await deps.scheduler.run_now(schedule.id, command.id)
    if firing.outcome == "skipped":
        raise Conflict(f"schedule {schedule.name!r} skips what overlaps: {firing.reason}")
    if firing.outcome == "failed":
        raise Invalid(f"schedule {schedule.name!r} cannot fire: {firing.reason}")
    return ScheduleRun(run=firing.run, delivery=firing.delivery)


async def _named(org: str, name: str, deps: ScheduleDeps) -> ScheduleEntry:
    found = await deps.resources.named("schedule", org, name)
    if found is None:
        raise NotFound(f"there is no schedule {name!r}")
    return found


QUESTIONS: Questions = {NextFirings: next_firings, AllFirings: all_firings, RunSchedule: run_schedule}
