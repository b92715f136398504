"""Which times of a schedule are due, whenever it is looked at: with outages, restarts, changes and clocks that go back."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from zoneinfo import ZoneInfo

import msgspec
import pytest

from services.events.schedules import plan
from services.events.schedules.plan import MOST_CAUGHT_UP, PUNCTUAL, Due, ScheduleState
from shared.envelope import rfc3339
from shared.resources.schedule import CatchUp, Schedule, ScheduleEntry
from tests.support.plain_calendar import DAILY, MATCHING, minutes, plain, zones

CATCH_UP: tuple[CatchUp, ...] = ("none", "one", "all")
BEGIN = datetime(2026, 10, 24, 12, tzinfo=UTC)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


def entry(spec: Schedule, *, version: int = 1, at: datetime = BEGIN) -> ScheduleEntry:
    return ScheduleEntry(
        id="id",
        org="default",
        key="key",
        name="name",
        spec=spec,
        created_at=rfc3339(BEGIN),
        updated_at=rfc3339(at),
        version=version,
    )


def looked(schedule: ScheduleEntry, state: ScheduleState | None, now: datetime) -> tuple[list[datetime], ScheduleState]:
    """Return the times that a look fires, and what is known after it."""
    until = plan.handled_until(schedule, state, now)
    after = ScheduleState(
        version=schedule.version, spec=schedule.spec, handled_until=until, next_at=plan.next_of(schedule.spec, until)
    )
    return [at for due in plan.planned(schedule, state, now) for at in due.times], after


def times(spec: Schedule, begin: datetime, end: datetime) -> list[datetime]:
    return list(takewhile(lambda at: at <= end, plan.calendar(spec).after(begin)))


class Replica:
    """One of several that look at a schedule; its clock is so far ahead of, or behind, the right one."""

    def __init__(self, ahead: timedelta) -> None:
        self.ahead = ahead

    def look(self, schedule: ScheduleEntry, stored: bytes | None, now: datetime) -> tuple[list[datetime], bytes]:
        """Look as after a restart: nothing is known but what was stored."""
        state = None if stored is None else msgspec.json.decode(stored, type=ScheduleState)
        found, after = looked(schedule, state, now + self.ahead)
        return found, msgspec.json.encode(after)


@pytest.mark.parametrize("name", zones())
def test_over_every_change_of_the_clocks_outages_and_restarts_fire_what_a_plain_calendar_and_the_policy_have(name: str) -> None:
    zone = ZoneInfo(name)
    for change in zones()[name] or [BEGIN]:
        drawn = random.Random(f"{name} {change}")
        begin, end = change - 6 * HOUR, change + 12 * HOUR
        calendar = minutes(zone, begin, end)
        for expression in (drawn.choice(DAILY), drawn.choice(MATCHING)):
            every = [at for at in plain(expression, calendar, daily=expression in DAILY) if at > begin]
            for catch_up in CATCH_UP:
                schedule = entry(Schedule(cron=expression, timezone=name, catch_up=catch_up), at=begin)
                replicas = [Replica(ahead) for ahead in (0 * SECOND, 2 * SECOND, -2 * SECOND)]
                stored, now, handled = None, begin, begin
                while now < end - 4 * HOUR:
                    now += drawn.choice([SECOND * 0.2, 20 * SECOND, 50 * SECOND, 7 * MINUTE, HOUR, 3 * HOUR])
                    replica = drawn.choice(replicas)
                    fired, after = replica.look(schedule, stored, now)
                    if drawn.random() < 0.2:
                        # Killed before it stored anything: what it fired is fired again, by the same ids.
                        continue
                    until = now + replica.ahead
                    due = [at for at in every if handled < at <= until]
                    punctual = [at for at in due if at >= until - PUNCTUAL]
                    kept = {"none": punctual, "one": punctual or due[-1:], "all": due[-MOST_CAUGHT_UP:]}
                    assert fired == kept[catch_up], (expression, catch_up, change, now)
                    stored, handled = after, max(handled, until)


@pytest.mark.parametrize("catch_up", ["none", "one", "all"])
@pytest.mark.parametrize(
    "spec", [Schedule(cron="*/10 * * * *"), Schedule(cron="30 1,2 * * *", timezone="Europe/Vienna"), Schedule(every=7)]
)
def test_whenever_it_is_looked_at_no_time_fires_twice_and_none_is_lost_that_the_policy_keeps(spec: Schedule, catch_up: str) -> None:
    schedule = entry(msgspec.structs.replace(spec, catch_up=catch_up))
    for seed in range(20):
        drawn = random.Random(seed)
        state, now, fired = None, BEGIN, list[datetime]()
        outages: list[tuple[datetime, datetime]] = []
        for _ in range(60):
            # Timers are early and late, the clock of another replica is behind, and now and then there is nobody for a while.
            step = drawn.choice([-SECOND, SECOND * 0.2, 5 * SECOND, 40 * SECOND, 55 * SECOND, 9 * MINUTE])
            outages += [(now, now + step)] if step > PUNCTUAL else []
            found, state = looked(schedule, state, now + step)
            fired += found
            now = max(now, now + step)
        every = times(spec, BEGIN, now)
        assert fired == sorted(set(fired))
        assert set(fired) <= set(every)
        missed = [at for at in every if any(begin < at < end - PUNCTUAL for begin, end in outages)]
        if catch_up == "all":
            assert set(fired) >= set(every) - {at for begin, end in outages for at in times(spec, begin, end)[:-MOST_CAUGHT_UP]}
        else:
            assert set(fired) >= set(every) - set(missed)
        if catch_up == "none":
            assert not set(fired) & set(missed)


def test_after_an_outage_one_time_is_made_up_for_unless_one_is_punctual() -> None:
    for catch_up, number in (("none", 0), ("one", 1), ("all", 5)):
        schedule = entry(Schedule(cron="0 * * * *", catch_up=catch_up))  # type: ignore[arg-type]
        _, state = looked(schedule, None, BEGIN)
        late, _ = looked(schedule, state, BEGIN + 5 * HOUR + 2 * MINUTE)
        assert len(late) == number
        soon, _ = looked(schedule, state, BEGIN + 5 * HOUR + 30 * SECOND)
        assert len(soon) == max(1, number)
        assert soon[-1] == BEGIN + 5 * HOUR


def test_what_is_made_up_for_is_bounded() -> None:
    schedule = entry(Schedule(cron="* * * * *", catch_up="all"))
    _, state = looked(schedule, None, BEGIN)
    found, _ = looked(schedule, state, BEGIN + 400 * 24 * HOUR)
    assert found == [BEGIN + 400 * 24 * HOUR - number * MINUTE for number in reversed(range(MOST_CAUGHT_UP))]


def test_a_schedule_begins_when_it_is_put_and_makes_up_for_nothing_from_before_or_from_while_it_was_off() -> None:
    spec = Schedule(cron="* * * * *", catch_up="all")
    assert looked(entry(spec), None, BEGIN + 2 * MINUTE)[0] == [BEGIN + MINUTE, BEGIN + 2 * MINUTE]
    # Of a schedule whose state was lost only times of the last day are looked at again.
    assert len(looked(entry(spec, at=BEGIN - 900 * 24 * HOUR), None, BEGIN)[0]) == MOST_CAUGHT_UP
    assert looked(entry(Schedule(cron="0 12 * * *", catch_up="all"), at=BEGIN - 900 * 24 * HOUR), None, BEGIN)[0] == [BEGIN]
    _, state = looked(entry(spec), None, BEGIN)
    off = entry(msgspec.structs.replace(spec, enabled=False), version=2, at=BEGIN + MINUTE)
    found, state = looked(off, state, BEGIN + MINUTE + SECOND)
    assert (found, state.next_at) == ([BEGIN + MINUTE], None)
    assert looked(off, state, BEGIN + HOUR)[0] == []
    on = entry(spec, version=3, at=BEGIN + HOUR)
    assert looked(on, state, BEGIN + HOUR + MINUTE)[0] == [BEGIN + HOUR + MINUTE]


def test_what_was_due_before_a_change_fires_by_what_was_planned_then() -> None:
    old, new = Schedule(cron="0 * * * *", input={"x": 1}), Schedule(cron="5 * * * *", input={"x": 2})
    _, state = looked(entry(old), None, BEGIN + MINUTE)
    changed = entry(new, version=2, at=BEGIN + HOUR + SECOND)
    assert plan.planned(changed, state, BEGIN + HOUR + 3 * SECOND) == [Due(old, [BEGIN + HOUR], None), Due(new, [], None)]
    assert plan.planned(changed, state, BEGIN + HOUR + 5 * MINUTE) == [
        Due(old, [BEGIN + HOUR], None),
        Due(new, [BEGIN + HOUR + 5 * MINUTE], None),
    ]


def test_times_that_are_not_made_up_for_are_named_from_the_first_to_the_last() -> None:
    for catch_up, missed in (("none", (1, 5)), ("one", (1, 4)), ("all", None)):
        schedule = entry(Schedule(cron="0 * * * *", catch_up=catch_up))  # type: ignore[arg-type]
        _, state = looked(schedule, None, BEGIN)
        [due] = plan.planned(schedule, state, BEGIN + 5 * HOUR + 2 * MINUTE)
        assert due.missed == (missed and (BEGIN + missed[0] * HOUR, BEGIN + missed[1] * HOUR))
        [due] = plan.planned(schedule, state, BEGIN + HOUR + 30 * SECOND)
        assert (due.times, due.missed) == ([BEGIN + HOUR], None)
        [due] = plan.planned(schedule, state, BEGIN + 30 * MINUTE)
        assert (due.times, due.missed) == ([], None)
    often = entry(Schedule(cron="* * * * *", catch_up="all"))
    _, state = looked(often, None, BEGIN)
    [due] = plan.planned(often, state, BEGIN + 3 * HOUR)
    assert due.missed == (BEGIN + MINUTE, BEGIN + (180 - MOST_CAUGHT_UP) * MINUTE)


def test_all_schedules_are_looked_ahead_at_each_with_its_share() -> None:
    named = {
        "daily": Schedule(cron="0 9 * * *"),
        "often": Schedule(every=60),
        "off": Schedule(every=60, enabled=False),
        "yearly": Schedule(cron="0 0 1 1 *"),
    }
    schedules = [msgspec.structs.replace(entry(spec), name=name) for name, spec in named.items()]
    found = {name: (times, more) for name, times, more in plan.within(schedules, BEGIN, BEGIN + 48 * HOUR)}
    assert found["daily"] == ([BEGIN + 21 * HOUR, BEGIN + 45 * HOUR], False)
    assert found["yearly"] == ([], False)
    assert "off" not in found
    often, more = found["often"]
    assert (len(often), more) == (plan.MOST_SHOWN, True)
    assert all(BEGIN < one <= BEGIN + 48 * HOUR for one in often)
    many = plan.within(schedules * 500, BEGIN, BEGIN + 48 * HOUR)
    assert max(len(times) for _, times, _ in many) == plan.LEAST_SHOWN
