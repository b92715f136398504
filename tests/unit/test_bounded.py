"""The order in which things that wait get their turn."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.bounded import Turns


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
