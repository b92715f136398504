"""Which held events of a group are due: orders, rates and debounces, whatever comes late, twice or out of order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.events.holding.plan import LONGEST_HELD, MOST_AT_ONCE, Decision, Group, Held, HeldEvents, LastRun, decide, holds
from services.events.subscriptions import check_holding
from shared.errors import Invalid
from shared.resources.subscription import Subscription

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def spec(**fields: Any) -> Subscription:
    return Subscription(source="s", event="*", workflow="w", **fields)


def held(number: int, received: float, since: float | None = None, **fields: Any) -> Held:
    made = {
        "event": f"e{number}", "subscription": "sub", "name": "sub", "workflow": "w", "org": "o", "source": "s",
        "delivery": f"d{number}", "number": 0, "received_at": at(received), "held_at": at(received if since is None else since),
        "sequence": number,
    }  # fmt: skip
    return Held(**made | fields)


def waiting(*events: Held) -> HeldEvents:
    ordered = sorted(events, key=lambda one: (one.received_at, one.delivery, one.number))
    times = [one.held_at for one in events]
    return HeldEvents(first=ordered[:MOST_AT_ONCE], newest=ordered[-1], since=min(times), until=max(times))


def decided(
    given: Subscription | None,
    *events: Held,
    group: Group | None = None,
    run: LastRun = "none",
    settled: float | None = None,
    now: float = 0,
) -> Decision:
    return decide(given, group or Group(), waiting(*events), run, None if settled is None else at(settled), at(now))


def released(decision: Decision) -> list[str]:
    return [one.event for one, _ in decision.released]


def test_events_go_in_the_order_in_which_they_were_received_one_at_a_time() -> None:
    ordered = spec(ordering="source")
    events = [held(1, -1, since=-0.1), held(2, -3, since=-0.2), held(3, -2, since=-0.3)]
    assert released(decided(ordered, *events)) == ["e2"]
    assert decided(ordered, *events, run="goes_on") == Decision()
    assert released(decided(ordered, *events, run="failed")) == ["e2"]
    # Another one of the source that came before may still be on its way.
    assert decided(ordered, *events, settled=-3) == Decision(soon=True)
    assert decided(ordered, *events, settled=-4) == Decision(soon=True)
    assert released(decided(ordered, *events, settled=-2.5)) == ["e2"]


def test_a_failed_one_blocks_those_behind_it_until_its_retry_comes() -> None:
    ordered = spec(ordering="key", key="event.data.k", on_failure="block")
    last = Group(run="r", delivery="d1", number=0)
    assert decided(ordered, held(2, -1), group=last, run="failed") == Decision()
    assert released(decided(ordered, held(2, -1), group=last, run="ended")) == ["e2"]
    retry = held(9, -5, since=0, delivery="d1")
    assert released(decided(ordered, held(2, -1), retry, group=last, run="failed")) == ["e9"]
    assert decided(ordered, held(2, -1), retry, group=last, run="goes_on") == Decision()


def test_the_last_one_of_a_debounce_goes_when_no_other_has_come_for_a_while() -> None:
    debounced = spec(debounce=30, debounce_most=60)
    events = [held(1, -50), held(2, -20)]
    assert decided(debounced, *events) == Decision(look_at=at(10))
    found = decided(debounced, *events, now=10)
    assert released(found) == ["e2"]
    assert [(one.event, reason.partition(",")[0]) for one, reason in found.dropped] == [("e1", "superseded by event e2")]
    # Late: it came before the others, and keeps them waiting, but it is not the last one.
    late = held(3, -45, since=5)
    assert decided(debounced, *events, late, now=9) == Decision(look_at=at(10))
    assert released(decided(spec(debounce=30), *events, late, now=35)) == ["e2"]
    # Others go on coming: it waits no longer than the most.
    assert released(decided(debounced, *events, held(4, 9.5), now=10)) == ["e4"]


def test_a_debounce_of_more_than_a_look_takes_drops_first_and_runs_one() -> None:
    debounced = spec(debounce=1)
    events = [held(number, number / 1000 - 10) for number in range(MOST_AT_ONCE + 50)]
    first = decided(debounced, *events)
    assert (len(first.dropped), first.released, first.soon) == (MOST_AT_ONCE, [], True)
    left = events[MOST_AT_ONCE:]
    second = decided(debounced, *left)
    assert (len(second.dropped), released(second), second.soon) == (49, [events[-1].event], False)


def test_a_rate_lets_a_burst_go_and_the_others_wait_for_their_time() -> None:
    rated = spec(rate=0.5, burst=2)
    events = [held(number, number - 10) for number in range(4)]
    found = decided(rated, *events)
    assert (released(found), found.look_at) == (["e0", "e1"], at(2))
    group = Group(run="r", delivery="d1", number=0, free_at=found.released[-1][1])
    assert decided(rated, *events[2:], group=group, now=1.9) == Decision(look_at=at(2))
    assert released(decided(rated, *events[2:], group=group, now=2)) == ["e2"]
    # With an order one goes at a time, as soon as its rate lets it.
    ordered = spec(rate=0.5, burst=2, ordering="source")
    assert released(decided(ordered, *events)) == ["e0"]
    assert decided(ordered, *events, group=Group(run="r", free_at=at(6)), run="ended") == Decision(look_at=at(4))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60), st.floats(0.05, 20), st.integers(1, 10))
def test_no_more_go_than_the_rate_allows_and_all_go(arrivals: list[float], rate: float, burst: int) -> None:
    rated = spec(rate=rate, burst=burst)
    left = [held(number, received) for number, received in enumerate(sorted(arrivals))]
    group, now, gone = Group(), 0.0, list[float]()
    for _ in range(10 * len(arrivals)):
        there = [one for one in left if one.received_at <= at(now)]
        found = decided(rated, *there, group=group, now=now) if there else Decision()
        for one, free_at in found.released:
            left.remove(one)
            gone.append(now)
            group = Group(run="r", delivery=one.delivery, number=0, free_at=free_at)
        if not left:
            break
        coming = [one.received_at for one in left if one.received_at > at(now)]
        now = (min([*coming, *([found.look_at] if found.look_at else [])]) - NOW).total_seconds() + 1e-6
    assert not left
    for begin in gone:
        for seconds in (0.0, 1.0, 7.0):
            assert sum(begin <= one <= begin + seconds for one in gone) <= burst + seconds * rate + 1


def test_what_is_held_by_nobody_or_for_too_long_has_an_end() -> None:
    events = [held(1, -1), held(2, -2)]
    assert [reason for _, reason in decided(None, *events).dropped] == ["the subscription was removed while it held this event"] * 2
    assert released(decided(spec(), *events)) == ["e2", "e1"]
    old = held(1, -1 - LONGEST_HELD.total_seconds())
    found = decided(spec(ordering="source"), old, held(2, 0), run="goes_on")
    assert ([one.event for one in found.expired], found.soon) == (["e1"], True)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"ordering": "key"}, "key"),
        ({"key": "event.type"}, "key"),
        ({"key": "event.type", "ordering": "source", "rate": 1.0}, "key"),
        ({"on_failure": "block"}, "on_failure"),
        ({"burst": 3}, "burst"),
        ({"debounce_most": 3.0}, "debounce_most"),
        ({"debounce": 5.0, "debounce_most": 3.0}, "debounce_most"),
        ({"key": "event.type", "debounce": 5.0, "debounce_most": 30.0}, None),
        ({"key": "event.type", "ordering": "key", "rate": 1.0, "burst": 2, "on_failure": "block"}, None),
    ],
)
def test_what_means_nothing_beside_the_others_is_refused(fields: dict[str, Any], path: str | None) -> None:
    if path is None:
        check_holding(spec(**fields))
        assert holds(spec(**fields))
        return
    with pytest.raises(Invalid) as refused:
        check_holding(spec(**fields))
    assert refused.value.errors[0].path == path
    assert ("to end a" in str(refused.value)) == (len(fields) == 1 and path in {"burst", "debounce_most"})
