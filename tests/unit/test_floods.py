"""Floods: what is held back, by which counts, and for how long."""

from __future__ import annotations

from services.events.floods import COUNTED_EVERY, FLOOD, HELD_FOR, CoreTime, Floods, core_time
from shared.streams import BULK_LANES, WORK

PARSE = [work for work in WORK if work.name.startswith("events-parse")]


class Senders:
    """Senders of webhooks, a machine with too few cores or enough, and the counts of half a second each."""

    def __init__(self, max_backlog: int = 10_000_000) -> None:
        self.now = 100.0
        self.floods = Floods(max_backlog, now=lambda: self.now)
        self.stored = 0
        self.time = CoreTime(0.0, 0.0)
        self.floods.counted(0, 0, self.time)

    def send(self, a_second: float, *, waiting: int = 1000, waited: float = 0.5, seconds: float = COUNTED_EVERY) -> bool:
        """Send for a while, in which this process waits for a core for a part of the time; returns whether it is held back."""
        for _ in range(int(seconds / COUNTED_EVERY)):
            self.now += COUNTED_EVERY
            self.stored += int(a_second * COUNTED_EVERY)
            self.time = CoreTime(self.time.ran + (1 - waited) * 0.1, self.time.waited + waited * 0.1)
            self.floods.counted(self.stored, waiting, self.time)
        return self.floods.holds_back


def test_a_flood_is_held_back_while_it_comes_and_cores_are_short() -> None:
    senders = Senders()
    assert not senders.send(FLOOD / 2)
    assert senders.send(5 * FLOOD)
    # It does less now, and waits less.
    assert senders.send(5 * FLOOD, waited=0.0)
    assert not senders.send(FLOOD / 2)


def test_a_flood_is_worked_off_at_once_where_there_are_cores_enough_or_the_kernel_does_not_count() -> None:
    senders = Senders()
    assert not senders.send(5 * FLOOD, waited=0.1)
    senders.now += COUNTED_EVERY
    senders.floods.counted(10 * FLOOD, 1000, None)
    assert not senders.floods.holds_back


def test_only_the_bulk_lanes_are_held_back_and_only_before_they_are_parsed() -> None:
    senders = Senders()
    assert all(senders.floods.admits(work) for work in WORK)
    assert senders.send(5 * FLOOD)
    assert {work.name for work in WORK if not senders.floods.admits(work)} == {f"events-parse-{lane}" for lane in BULK_LANES}


def test_a_flood_that_lasts_is_worked_off_while_it_comes_until_nothing_of_it_waits() -> None:
    senders = Senders()
    assert senders.send(5 * FLOOD, seconds=HELD_FOR)
    assert not senders.send(5 * FLOOD, seconds=2 * COUNTED_EVERY)
    # Also after a pause in which not all of it was worked off.
    assert not senders.send(0, seconds=60, waiting=1)
    assert not senders.send(5 * FLOOD)
    assert not senders.send(0, waiting=0)
    assert senders.send(5 * FLOOD)


def test_pauses_of_a_flood_do_not_count() -> None:
    senders = Senders()
    for _ in range(2):
        assert senders.send(5 * FLOOD, seconds=HELD_FOR / 2)
        assert not senders.send(0, seconds=HELD_FOR)
    assert not senders.send(5 * FLOOD, seconds=2 * COUNTED_EVERY)


def test_nothing_is_held_back_beyond_half_of_what_may_wait() -> None:
    senders = Senders(max_backlog=10_000)
    assert senders.send(5 * FLOOD, waiting=4_999)
    assert not senders.send(5 * FLOOD, waiting=5_000)


def test_nothing_is_held_back_without_a_count_of_late() -> None:
    senders = Senders()
    assert senders.send(5 * FLOOD)
    senders.now += 4 * COUNTED_EVERY
    assert not senders.floods.holds_back


def test_the_time_of_this_process_only_grows() -> None:
    before = core_time()
    after = core_time()
    if before is not None:  # not every kernel counts it
        assert after is not None
        assert after.ran >= before.ran > 0
        assert after.waited >= before.waited
