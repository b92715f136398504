"""Which times of a schedule are due, and what follows from how far it has come. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice, takewhile

import msgspec

from shared.calendars import Cron, Every, calendar_of, latest
from shared.resources.schedule import Firing, Schedule, ScheduleEntry

# A time was missed when so much has passed: another replica takes over, and a busy machine comes to it, within that.
PUNCTUAL = timedelta(minutes=1)
# Of the times that were missed no more are made up for.
MOST_CAUGHT_UP = 100
# Of a schedule of which nothing is known, as in a new database, times longer ago are left alone.
KNOWN = timedelta(days=1)
MOMENT = timedelta(microseconds=1)
# Times that are shown of all schedules together, of which each has so many at least and at most.
ALL_SHOWN, LEAST_SHOWN, MOST_SHOWN = 2000, 4, 100


class ScheduleState(msgspec.Struct, frozen=True, kw_only=True):
    """How far a schedule has come: all its times up to `handled_until` are done with, by the `spec` of its `version`.

    `next_at` is when it is to be looked at again, `last_run` the last run that it started.
    """

    version: int
    spec: Schedule
    handled_until: datetime
    next_at: datetime | None
    last: Firing | None = None
    last_run: str | None = None


def calendar(spec: Schedule) -> Cron | Every:
    """Return the calendar of a schedule that was checked."""
    return calendar_of(spec.cron, spec.every, spec.timezone)


def due(spec: Schedule, after: datetime, until: datetime, now: datetime) -> list[datetime]:
    """Return the times after one moment up to another that are to fire `now`, in order: what was missed as `catch_up` has it."""
    if not spec.enabled or until <= after:
        return []
    found = latest(calendar(spec), after, until, MOST_CAUGHT_UP)
    punctual = [one for one in found if one >= now - PUNCTUAL]
    if spec.catch_up == "none":
        return punctual
    return found if spec.catch_up == "all" else punctual or found[-1:]


class Due(msgspec.Struct, frozen=True):
    """The times of one spec that are to fire now, in order, and the first and the last of those before that are missed for good."""

    spec: Schedule
    times: list[datetime]
    missed: tuple[datetime, datetime] | None


def planned(schedule: ScheduleEntry, state: ScheduleState | None, now: datetime) -> list[Due]:
    """Return what is to fire of a schedule now, by each spec that it had since it was looked at last.

    What was due before a change fires as it was planned then. While it was switched off nothing was missed.
    """
    changed = datetime.fromisoformat(schedule.updated_at)
    if state is None:
        # Where the state was lost, times longer ago may have fired.
        times = due(schedule.spec, max(changed, now - KNOWN), now, now)
        return [Due(schedule.spec, times, None)]
    if state.version == schedule.version:
        return [_due(schedule.spec, state.handled_until, now, now)]
    # The clock of the replica that recorded the change may be ahead of this one.
    begin = max(state.handled_until, changed)
    return [_due(state.spec, state.handled_until, begin, now), _due(schedule.spec, begin, now, now)]


def _due(spec: Schedule, after: datetime, until: datetime, now: datetime) -> Due:
    times = due(spec, after, until, now)
    if not spec.enabled or until <= after:
        return Due(spec, times, None)
    end = times[0] - MOMENT if times else until
    first = next(iter(following(spec, after, 1)), None)
    if first is None or first > end:
        return Due(spec, times, None)
    [last] = latest(calendar(spec), after, end, 1)
    return Due(spec, times, (first, last))


def handled_until(schedule: ScheduleEntry, state: ScheduleState | None, now: datetime) -> datetime:
    """Return the time up to which a schedule is done with once what is `planned` now has fired: it never goes back."""
    changed = datetime.fromisoformat(schedule.updated_at)
    if state is None:
        return max(now, changed)
    return max(now, state.handled_until, changed if state.version != schedule.version else now)


def following(spec: Schedule, after: datetime, number: int) -> list[datetime]:
    """Return the next times after a moment, also of a schedule that is switched off."""
    times: Iterator[datetime] = calendar(spec).after(after)
    return list(islice(times, number))


def within(schedules: Sequence[ScheduleEntry], after: datetime, until: datetime) -> list[tuple[str, list[datetime], bool]]:
    """Return by name the times of those that are switched on, and whether one has more: of many schedules fewer of each."""
    most = max(LEAST_SHOWN, min(MOST_SHOWN, ALL_SHOWN // max(1, len(schedules))))
    found = []
    for one in schedules:
        if one.spec.enabled:
            times = list(islice(takewhile(lambda at: at <= until, calendar(one.spec).after(after)), most + 1))
            found.append((one.name, times[:most], len(times) > most))
    return found


def next_of(spec: Schedule, after: datetime) -> datetime | None:
    """Return the next time at which a schedule fires; None where it is switched off."""
    return next(iter(following(spec, after, 1)), None) if spec.enabled else None
