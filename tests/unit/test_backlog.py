"""The backlog of webhooks: who is admitted, when nobody is, and what is told meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.gateway.backlog import OUTDATED, Bounds, WebhookBacklog
from shared.durables import WorkBacklog
from shared.errors import Unavailable

NOW = datetime(2026, 11, 29, tzinfo=UTC)


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


def counted(backlog: WebhookBacklog, messages: int, *, age: float = 0.0, clock: Clock | None = None) -> None:
    if clock is not None:
        clock.time += 1
    begun = backlog.begin_count()
    since = NOW - timedelta(seconds=age) if age else None
    backlog.counted({"events-parse": WorkBacklog(undelivered=messages, in_work=0, since=since)}, begun, NOW)


def made(clock: Clock, *, messages: int = 100, seconds: float = 60.0) -> WebhookBacklog:
    backlog = WebhookBacklog(Bounds(messages=messages, bytes=messages * 1000, seconds=seconds), now=clock)
    counted(backlog, 0)
    return backlog


def admit(backlog: WebhookBacklog, source: str, times: int = 1, weight: int = 1, org: str | None = None, size: int = 0) -> int:
    """Admit webhooks that are stored at once, of an organization of its own unless given; returns how many were."""
    for done in range(times):
        try:
            backlog.check(source, org or source, weight=weight)
        except Unavailable:
            return done
        with backlog.admitted(source, org or source, size):
            pass
    return times


def test_a_source_alone_holds_four_fifths_and_leaves_the_rest_to_others(clock: Clock) -> None:
    backlog = made(clock)
    assert admit(backlog, "flood", 1000) == 80
    assert backlog.messages == 80
    assert admit(backlog, "trickle", 10) == 10
    assert admit(backlog, "flood") == 0


def test_a_heavier_source_holds_more_of_what_is_left_and_not_all(clock: Clock) -> None:
    backlog = made(clock, messages=1000)
    assert admit(backlog, "light", 2000) == 800
    assert admit(backlog, "heavy", 2000, weight=10) in range(177, 179)  # eight ninths, as much as an organization may hold
    assert admit(backlog, "another", 1) == 1


def test_an_organization_leaves_others_room_however_many_sources_it_has(clock: Clock) -> None:
    backlog = made(clock, messages=900)
    assert sum(admit(backlog, f"source-{number}", 1000, weight=10, org="many") for number in range(50)) == 800
    with pytest.raises(Unavailable, match="most are of this organization"):
        backlog.check("new", "many")
    assert not backlog.is_full
    assert admit(backlog, "another", 50) == 50


def test_what_is_handled_gives_an_organization_its_room_back(clock: Clock) -> None:
    backlog = made(clock, messages=900)
    assert sum(admit(backlog, f"source-{number}", 1000, org="many") for number in range(50)) == 800
    counted(backlog, 400, clock=clock)
    assert admit(backlog, "new", 10, org="many") == 10


def test_large_webhooks_fill_it_by_their_bytes_and_give_room_as_they_are_handled(clock: Clock) -> None:
    backlog = made(clock)
    assert admit(backlog, "large", 100, size=20_000) == 4
    assert (backlog.messages, backlog.load) == (4, 80.0)
    assert admit(backlog, "small", 4, size=500) == 4
    assert admit(backlog, "another", 100, size=16_001) == 1
    with pytest.raises(Unavailable, match="9 of 100 messages wait, and count as 100 by their sizes"):
        backlog.check("small", "small")
    counted(backlog, 9, clock=clock)
    assert backlog.is_full
    counted(backlog, 3, clock=clock)
    assert backlog.load == pytest.approx(100.001 / 3)
    assert admit(backlog, "large", 100, size=20_000) == 3
    counted(backlog, 0, clock=clock)
    assert backlog.load == 0


def test_sources_together_never_hold_more_than_the_bound(clock: Clock) -> None:
    backlog = made(clock)
    assert sum(admit(backlog, f"source-{number}", 1000) for number in range(50)) == 100
    with pytest.raises(Unavailable, match="100 of 100 messages wait") as refused:
        backlog.check("another", "another")
    assert refused.value.retry_after
    assert backlog.is_full


def test_what_was_counted_is_not_counted_again(clock: Clock) -> None:
    backlog = made(clock)
    assert admit(backlog, "a", 30) == 30
    counted(backlog, 30, clock=clock)
    assert backlog.messages == 30
    assert admit(backlog, "a", 5) == 5
    assert backlog.messages == 35


def test_a_webhook_on_its_way_while_the_broker_counts_is_counted_until_the_next_time(clock: Clock) -> None:
    backlog = made(clock)
    with backlog.admitted("a", "a"):
        counted(backlog, 0, clock=clock)
        assert backlog.messages == 1
    assert backlog.messages == 1
    counted(backlog, 1, clock=clock)
    assert backlog.messages == 1
    counted(backlog, 0, clock=clock)
    assert backlog.messages == 0


def test_consumption_gives_every_source_room_in_proportion(clock: Clock) -> None:
    backlog = made(clock)
    assert admit(backlog, "flood", 1000) == 80
    counted(backlog, 80, clock=clock)
    assert admit(backlog, "flood") == 0
    counted(backlog, 40, clock=clock)
    assert admit(backlog, "flood", 1000) == 40
    assert backlog.messages == 80


def test_others_that_fill_it_take_the_room_of_one_that_holds_much(clock: Clock) -> None:
    """Another gateway admitted them: they are known by the broker's count alone."""
    backlog = made(clock)
    assert admit(backlog, "flood", 40) == 40
    counted(backlog, 92, clock=clock)
    assert admit(backlog, "flood") == 0
    assert admit(backlog, "trickle") == 1


def test_it_is_full_by_age_whatever_the_number(clock: Clock) -> None:
    backlog = made(clock)
    counted(backlog, 1, age=59.0, clock=clock)
    assert admit(backlog, "a") == 1
    counted(backlog, 1, age=60.0, clock=clock)
    assert admit(backlog, "a") == 0
    assert backlog.age == 60.0


def test_an_old_bulk_lane_is_closed_to_those_in_it_and_to_no_others(clock: Clock) -> None:
    backlog = made(clock)

    def count(age: float) -> None:
        since = NOW - timedelta(seconds=age)
        found = {"events-route-bulk-2": WorkBacklog(undelivered=1, in_work=0, since=since)}
        backlog.counted(found, backlog.begin_count(), NOW)

    count(59.0)
    backlog.check("flood", "flood", lane="bulk-2")
    count(60.0)
    with pytest.raises(Unavailable, match="of this source have waited"):
        backlog.check("flood", "flood", lane="bulk-2")
    backlog.check("another", "another", lane="bulk-1")
    backlog.check("trickle", "trickle")
    assert not backlog.is_full
    assert backlog.problem
    count(49.0)
    with pytest.raises(Unavailable):
        backlog.check("flood", "flood", lane="bulk-2")
    count(47.0)
    backlog.check("flood", "flood", lane="bulk-2")


def test_it_does_not_flap_at_its_bounds(clock: Clock) -> None:
    backlog = made(clock)
    told = []
    for messages in (79, 80, 79, 61, 59, 79, 100, 99, 81, 79, 99):
        counted(backlog, messages, clock=clock)
        told.append("full" if backlog.is_full else "crowded" if backlog.problem else "well")
    expected = ["well", "crowded", "crowded", "crowded", "well", "well", "full", "full", "full", "crowded", "crowded"]
    assert told == expected


def test_senders_come_again_by_the_pace_of_consumption(clock: Clock) -> None:
    backlog = made(clock, messages=10_000)
    counted(backlog, 10_050, clock=clock)
    with pytest.raises(Unavailable) as refused:
        backlog.check("a", "a")
    assert refused.value.retry_after == 60.0
    counted(backlog, 10_000, clock=clock)
    with pytest.raises(Unavailable) as refused:
        backlog.check("a", "a")
    assert refused.value.retry_after == 40.0


def test_without_a_fresh_count_nobody_is_refused(clock: Clock) -> None:
    backlog = WebhookBacklog(Bounds(messages=1, bytes=1000, seconds=1.0), now=clock)
    assert admit(backlog, "a", 5) == 5
    counted(backlog, 5, clock=clock)
    assert admit(backlog, "a") == 0
    clock.time += OUTDATED + 1
    assert admit(backlog, "a") == 1
    assert backlog.problem is None


def test_it_shows_its_state_and_its_bounds(clock: Clock) -> None:
    backlog = made(clock)
    counted(backlog, 100, age=6.0, clock=clock)
    admit(backlog, "a")
    fact = backlog.fact()
    assert fact.pop("problem").startswith("100 of 100 messages wait, the oldest for 6 of 60 s")
    assert fact == {
        "messages": 100,
        "max_messages": 100,
        "load": 100.0,
        "max_bytes": 100_000,
        "age_s": 6.0,
        "max_age_s": 60.0,
        "work": {"events-parse": 100},
        "refused": 1,
        "crowded": True,
        "full": True,
    }
