"""The order in which things that wait get their turn."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.bounded import BoundedTasks, CappedTurns, SharedPlaces, Turns


def taken(queue: Turns[str]) -> str:
    return " ".join(queue.get() for _ in range(len(queue)))


def test_each_key_has_its_turn_however_many_of_another_came_before() -> None:
    queue = Turns[str](lambda item: item[0])
    for item in ("a1", "a2", "a3", "a4", "b1", "c1", "b2"):
        queue.put(item)
    assert taken(queue) == "a1 b1 c1 a2 b2 a3 a4"


def test_one_that_comes_anew_is_next_after_those_that_wait_for_their_turn() -> None:
    queue = Turns[str](lambda item: item[0])
    for item in ("a1", "a2", "a3"):
        queue.put(item)
    assert queue.get() == "a1"
    queue.put("b1")
    assert taken(queue) == "a2 b1 a3"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans())))
def test_nothing_is_lost_and_those_of_a_key_stay_in_order(steps: list[tuple[str, bool]]) -> None:
    queue = Turns[str](lambda item: item[0])
    put, got = [], []
    for number, (key, take) in enumerate(steps):
        queue.put(f"{key}{number}")
        put.append(f"{key}{number}")
        if take:
            got.append(queue.get())
    got += [queue.get() for _ in range(len(queue))]
    assert len(queue) == 0
    for key in "abc":
        assert [one for one in got if one[0] == key] == [one for one in put if one[0] == key]


async def test_no_key_has_more_than_its_share_of_the_places() -> None:
    queue: CappedTurns[str] = CappedTurns(lambda item: item[0], 2, 4)
    begun: list[str] = []
    go_on = {name: asyncio.Event() for name in ("a1", "a2", "a3", "a4", "b1", "b2")}

    async def work(item: str) -> None:
        begun.append(item)
        try:
            await go_on[item].wait()
        finally:
            queue.ended(item)

    bounded = BoundedTasks(work, 4, queue)
    for item in ("a1", "a2", "a3", "a4", "b1"):
        bounded.offer(item)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert begun == ["a1", "b1", "a2"]
    go_on["b1"].set()
    await asyncio.sleep(0.01)
    # A place is free, and those that wait have had theirs.
    assert (begun, bounded.waiting) == (["a1", "b1", "a2"], 0)
    bounded.offer("b2")
    await asyncio.sleep(0.01)
    assert begun == ["a1", "b1", "a2", "b2"]
    go_on["a1"].set()
    await asyncio.sleep(0.01)
    assert begun == ["a1", "b1", "a2", "b2", "a3"]
    go_on["a2"].set()
    await asyncio.sleep(0.01)
    assert begun[-1] == "a4"
    assert sorted(await bounded.drain(0)) == ["a3", "a4", "b2"]


async def test_two_who_act_together_leave_a_place_for_whoever_comes() -> None:
    queue: CappedTurns[str] = CappedTurns(lambda item: item[0], 4, 8)
    begun: list[str] = []
    over = asyncio.Event()

    async def work(item: str) -> None:
        begun.append(item)
        try:
            await (over if item[0] == "a" else asyncio.Event()).wait()
        finally:
            queue.ended(item)

    bounded = BoundedTasks(work, 8, queue)
    for number in range(20):
        bounded.offer(f"a{number}")
        bounded.offer(f"b{number}")
    await asyncio.sleep(0.01)
    assert Counter(item[0] for item in begun) == {"a": 3, "b": 3}
    for item in ("c0", "d0"):
        bounded.offer(item)
        await asyncio.sleep(0.01)
        assert begun[-1] == item
    # As soon as there is more room, those that were held back have their turn, and each of them goes on in order.
    over.set()
    await asyncio.sleep(0.05)
    assert [item for item in begun if item[0] == "a"] == [f"a{number}" for number in range(20)]
    assert Counter(item[0] for item in begun) == {"a": 20, "b": 3, "c": 1, "d": 1}
    await bounded.drain(0)


async def test_places_are_shared_however_many_wait_and_whoever_gives_up() -> None:
    places = SharedPlaces(4, 6)
    entered: list[str] = []
    leave = {name: asyncio.Event() for name in ("busy", "other")}

    async def take(key: str) -> None:
        async with places.turn(key, 60):
            entered.append(key)
            await leave[key].wait()

    async def settled() -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    busy = [asyncio.create_task(take("busy")) for _ in range(1000)]
    await settled()
    assert entered == ["busy"] * 3
    other = asyncio.create_task(take("other"))
    await settled()
    assert entered == ["busy"] * 3 + ["other"]
    # Those that give up, in a place or waiting for one, leave nothing behind.
    for task in busy[:-4]:
        task.cancel()
    await asyncio.wait(busy[:-4])
    assert entered == ["busy"] * 3 + ["other"] + ["busy"] * 3
    leave["other"].set()
    leave["busy"].set()
    await asyncio.gather(other, *busy[-4:])
    assert entered.count("busy") == 7
    with pytest.raises(TimeoutError):
        async with places.turn("busy", 60), places.turn("busy", 60), places.turn("busy", 60), places.turn("busy", 0):
            pass
    async with places.turn("busy", 60), places.turn("busy", 60), places.turn("busy", 60):
        pass
