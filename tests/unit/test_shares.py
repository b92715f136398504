"""How the slots are shared between organizations."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from services.executor.runs.shares import LASTS, QueuedRun, Shares, may_begin, room


class Clock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def place(run: object, org: str = "a", priority: str = "normal") -> QueuedRun:
    return QueuedRun(str(run), org, priority)


async def rest() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("slots", "alone"), [(8, 6), (12, 8), (24, 16), (48, 32), (96, 64)])
def test_one_organization_alone_gets_two_thirds_of_the_slots(slots: int, alone: int) -> None:
    assert room(0, slots) == alone
    assert room(alone, slots - alone) == 0


def test_each_further_one_that_hangs_gets_two_thirds_of_what_is_left() -> None:
    left, had = 24, []
    while left:
        had.append(room(0, left))
        left -= had[-1]
    assert had == [16, 6, 2]


def test_who_has_nothing_going_on_needs_a_free_slot_only() -> None:
    assert may_begin(0, 1)
    assert not may_begin(0, 0)
    assert not may_begin(2, 1)


async def test_what_is_over_a_share_waits_in_place_and_begins_in_order_the_higher_priority_first() -> None:
    shares = Shares(12)
    going_on = [place(number) for number in range(8)]
    for one in going_on:
        assert await shares.enter(one)
    waiting = [place("low", priority="low"), place("first"), place("second"), place("high", priority="high")]
    tasks = [asyncio.create_task(shares.enter(one)) for one in waiting]
    await rest()
    assert shares.crowded
    begun = []
    for one in going_on[:4]:
        shares.leave(one)
        await rest()
        begun.append(next(one.run for one in waiting if one.entered and one.run not in begun))
    assert begun == ["high", "first", "second", "low"]
    assert all([await task for task in tasks])


async def test_what_waits_in_place_begins_when_there_are_more_slots_and_nothing_does_in_fewer() -> None:
    shares = Shares(12)
    going_on = [place(number) for number in range(8)]
    for one in going_on:
        assert await shares.enter(one)
    waiting = [place(f"w{number}") for number in range(4)]
    tasks = [asyncio.create_task(shares.enter(one)) for one in waiting]
    await rest()
    assert shares.in_place == 4
    shares.resize(18)
    assert await asyncio.gather(*tasks) == [True] * 4
    shares.resize(9)
    assert shares.free == -3
    other = asyncio.create_task(shares.enter(place("b", "b")))
    for one in going_on[:3]:
        shares.leave(one)
        await rest()
        assert not other.done()
    shares.leave(going_on[3])
    assert await other


async def test_those_in_place_make_way_for_others_and_are_resumed_when_there_is_room() -> None:
    clock = Clock()
    shares = Shares(12, now=clock)
    going_on = [place(number) for number in range(8)]
    for one in going_on:
        assert await shares.enter(one)
    waiting = [place(f"w{number}") for number in range(4)]
    tasks = [asyncio.create_task(shares.enter(one)) for one in waiting]
    await rest()
    assert shares.others(["a"]) == []
    assert shares.others(["a", "b"]) == ["b"]
    shares.make_way()
    assert [await task for task in tasks] == [False] * 4
    for one in waiting:
        shares.park(one)
    late = place("late")
    assert not await shares.enter(late)
    shares.park(late)
    assert await shares.enter(place("b", "b"))
    assert shares.due() == []
    shares.leave(going_on[0])
    shares.leave(going_on[1])
    newer = place("newer")
    assert not await shares.enter(newer), "it would overtake those that are parked"
    shares.park(newer)
    assert shares.due() == [("a", "w0"), ("a", "w1")]
    assert shares.due() == [], "they are on their way"
    assert await shares.enter(place("w0"))
    clock.now += 2 * LASTS
    assert not shares.parking
    assert shares.state()["parked"] == {"a": 4}


async def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    shares = Shares(12)
    going_on = [place(number) for number in range(8)]
    for one in going_on:
        await shares.enter(one)
    one, other = place("one"), place("other")
    tasks = [asyncio.create_task(shares.enter(waiting)) for waiting in (one, other)]
    await rest()
    tasks[0].cancel()
    shares.leave(going_on[0])  # at the same moment
    await rest()
    shares.leave(one)
    await rest()
    assert tasks[0].cancelled()
    assert await tasks[1]
    shares.leave(other)
    for left in going_on[1:]:
        shares.leave(left)
    assert (shares.free, shares.crowded, shares.busy) == (12, False, False)


@pytest.mark.parametrize("seed", range(20))
async def test_everyone_goes_on_some_time_and_no_more_than_there_are_slots(seed: int) -> None:
    drawn = Random(seed)
    clock = Clock()
    shares = Shares(12, now=clock)
    queued = [place(number, org, drawn.choice(["high", "normal", "low"])) for number, org in enumerate("aaaaaab" * 30 + "c")]
    begun: list[QueuedRun] = []
    ended: set[str] = set()
    tasks: dict[asyncio.Task[bool], QueuedRun] = {}
    parked: dict[str, QueuedRun] = {}
    for _ in range(20_000):
        clock.now += 0.05
        while queued and len(tasks) + len(begun) < 12:
            one = queued.pop(0)
            tasks[asyncio.create_task(shares.enter(one))] = one
        await rest()
        for task in [task for task in tasks if task.done()]:
            one = tasks.pop(task)
            if task.result():
                begun.append(one)
            else:
                parked[one.run] = one
                shares.park(one)
        assert shares.free == 12 - len(begun)
        if shares.others({one.org for one in queued}):
            shares.make_way()
        for _, run in shares.due():
            one = parked.pop(run)
            queued.append(place(one.run, one.org, one.priority))
        if begun and drawn.random() < 0.7:
            one = begun.pop(drawn.randrange(len(begun)))
            shares.leave(one)
            ended.add(one.run)
        if len(ended) == 211:
            break
    assert len(ended) == 211
    assert not shares.state()["running"]
