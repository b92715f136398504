"""How many slots an executor has, by the load."""

from __future__ import annotations

import math
import resource
from itertools import groupby, pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.executor.config import read
from services.executor.runs.scaling import DESCRIPTORS, OTHER_DESCRIPTORS, allowed
from services.executor.sandbox.machine import Machine
from services.executor.sizing import FULL, PERSISTS, QUIET, Load, PoolSize, SlotBounds, replicas_for, resized
from shared.config import Environment

BOUNDS = SlotBounds(24, 96)
EVERY = 0.5


class World(msgspec.Struct):
    """Runs come at a rate, take a time that the slots do not change, and of the cores a part each; all in a model."""

    rate: float
    run_s: float
    core_s: float
    run_mb: float = 32.0
    cores: float = 2.0
    memory_mb: float = 16_000.0
    queued: float = 0.0
    others: float = 0.0
    """The part of the cores that others use, and do not give up."""

    def load(self, slots: int) -> Load:
        """Return the load after `EVERY` seconds with so many slots, two thirds of which one organization may take."""
        waiting = self.queued + self.rate * EVERY
        # Those that fit, by the slots and by the cores.
        able = min(slots * 2 // 3 * EVERY / self.run_s, self.cores * (1 - self.others) * EVERY / self.core_s)
        done = min(waiting, able)
        self.queued = waiting - done
        running = min(slots * 2 // 3, math.ceil(waiting * self.run_s / EVERY))
        age = self.queued / self.rate if self.rate else (EVERY if self.queued else 0.0)
        own = done * self.core_s / EVERY / self.cores
        busy = min(1.0, own + self.others)
        free = max(0.0, self.memory_mb - running * self.run_mb)
        return Load(
            running=running, queued=int(self.queued), oldest_s=age, run_s=self.run_s, run_mb=self.run_mb, busy=busy, own=own,
            free_mb=free, memory_mb=self.memory_mb,
        )  # fmt: skip


def slots_of(
    world: World, seconds: float, bounds: SlotBounds = BOUNDS, pool: PoolSize | None = None, at: float = 0.0
) -> list[PoolSize]:
    """Return the pools of each look for so many seconds."""
    pools = [pool or PoolSize(slots=bounds.least)]
    for number in range(int(seconds / EVERY)):
        pools.append(resized(pools[-1], world.load(pools[-1].slots), bounds, at + number * EVERY))
    return pools


worlds = st.builds(
    World,
    rate=st.floats(0, 400),
    run_s=st.floats(0.01, 30),
    core_s=st.floats(0.004, 5),
    run_mb=st.floats(8, 256),
    cores=st.integers(1, 64).map(float),
    memory_mb=st.floats(2_000, 64_000),
    queued=st.integers(0, 5_000).map(float),
    others=st.floats(0, 0.95),
)
bounds_of = st.tuples(st.integers(1, 100), st.integers(0, 400)).map(lambda pair: SlotBounds(pair[0], sum(pair)))


@given(world=worlds, bounds=bounds_of)
def test_slots_stay_within_their_bounds_and_at_most_double(world: World, bounds: SlotBounds) -> None:
    pools = slots_of(world, 60, bounds)
    assert all(bounds.least <= pool.slots <= bounds.most for pool in pools)
    assert all(after.slots <= 2 * before.slots for before, after in pairwise(pools))


@given(world=worlds)
def test_a_steady_load_ends_in_steady_slots(world: World) -> None:
    slots = [pool.slots for pool in slots_of(world, 600)]
    late = slots[len(slots) // 2 :]
    turns = [after - before for before, after in pairwise(late) if after != before]
    # A backlog may end in the second half, after which they shrink: once, and not to and fro.
    assert len(list(groupby(change > 0 for change in turns))) <= 2, late


@given(world=worlds)
def test_nothing_to_do_ends_in_the_least(world: World) -> None:
    world.rate = world.queued = 0.0
    assert slots_of(world, 60, pool=PoolSize(slots=96))[-1].slots == BOUNDS.least


@given(running=st.integers(0, 96), free=st.floats(0, 4_000), each=st.floats(8, 500), queued=st.integers(0, 10_000))
def test_no_growth_takes_memory_that_is_not_there(running: int, free: float, each: float, queued: int) -> None:
    load = Load(running=running, queued=queued, run_mb=each, free_mb=free, memory_mb=16_000.0)
    slots = resized(PoolSize(slots=24), load, BOUNDS, 0.0).slots
    assert slots == 24 or (slots - running) * each <= free


def test_runs_that_wait_for_other_systems_get_slots_within_seconds() -> None:
    pools = slots_of(World(rate=0.0, run_s=1.0, core_s=0.01, queued=300.0), 2)
    assert [pool.slots for pool in pools] == [24, 48, 96, 96, 96]
    assert pools[2].reason == "queue"


def test_runs_that_compute_get_no_more_than_the_least() -> None:
    pools = slots_of(World(rate=0.0, run_s=1.0, core_s=1.0, queued=300.0), 60)
    assert {pool.slots for pool in pools} == {24}


def test_what_others_use_of_the_cores_keeps_no_run_waiting_that_uses_none() -> None:
    beside = World(rate=0.0, run_s=1.0, core_s=0.01, queued=300.0, others=0.95)
    assert [pool.slots for pool in slots_of(beside, 2)][:3] == [24, 48, 96]
    computing = World(rate=0.0, run_s=1.0, core_s=1.0, queued=300.0, others=0.6)
    assert {pool.slots for pool in slots_of(computing, 60)} == {24}


def test_slots_shrink_where_the_cores_stay_in_use_and_not_at_once() -> None:
    full = Load(running=60, queued=0, busy=FULL, own=0.9)
    pool = PoolSize(slots=96)
    assert resized(pool, full, BOUNDS, 0.0).slots == 96
    after = resized(resized(pool, full, BOUNDS, 0.0), full, BOUNDS, PERSISTS)
    assert (after.slots, after.reason) == (87, "cores")
    assert resized(after, full, BOUNDS, PERSISTS + EVERY).slots == 87, "it is seen first what that does"
    by_others = msgspec.structs.replace(full, own=0.1)
    assert resized(resized(pool, by_others, BOUNDS, 0.0), by_others, BOUNDS, PERSISTS).slots == 96


def test_a_burst_finds_the_slots_of_the_last_one() -> None:
    burst = World(rate=0.0, run_s=1.0, core_s=0.01, queued=300.0)
    pool = slots_of(burst, QUIET / 2)[-1]
    assert pool.slots == 96
    world = World(rate=0.0, run_s=1.0, core_s=0.01, queued=300.0)
    assert slots_of(world, 2, pool=pool, at=QUIET / 2)[-1].slots == 96
    rest = slots_of(World(rate=0.0, run_s=1.0, core_s=0.01), 2 * QUIET + 5, pool=pool, at=QUIET)
    assert (rest[-1].slots, rest[-1].reason) == (24, "quiet")


def test_more_executors_are_wanted_where_one_has_all_it_can() -> None:
    waits = Load(running=64, queued=3_000, run_s=1.0, busy=0.3)
    assert replicas_for(waits, 64, PoolSize(slots=96), BOUNDS) == 3
    assert replicas_for(msgspec.structs.replace(waits, busy=0.9), 64, PoolSize(slots=24), BOUNDS) == 11, "its cores allow no more"
    assert replicas_for(Load(running=0), 0, PoolSize(slots=24), BOUNDS) == 1


def test_slots_are_no_more_than_descriptors_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"now": (1024, 2500)}
    monkeypatch.setattr(resource, "getrlimit", lambda _which: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _which, wanted: limits.update(now=wanted))
    assert allowed(SlotBounds(24, 96)) == SlotBounds(24, 96)
    assert limits["now"] == (OTHER_DESCRIPTORS + 96 * DESCRIPTORS, 2500)
    assert allowed(SlotBounds(24, 400)) == SlotBounds(24, 100)
    assert allowed(SlotBounds(200, 400)) == SlotBounds(200, 200), "the least is the operator's word"


@pytest.mark.parametrize(
    ("variables", "bounds"),
    [
        ({"MILLRACE_SLOTS": "5"}, SlotBounds(5, 5)),
        ({"MILLRACE_SLOTS_MIN": "3", "MILLRACE_SLOTS_MAX": "7"}, SlotBounds(3, 7)),
        ({"MILLRACE_SLOTS_MAX": "1"}, SlotBounds(1, 1)),
    ],
)
def test_a_number_fixes_the_slots_and_two_bound_them(variables: dict[str, str], bounds: SlotBounds) -> None:
    assert read(Environment(variables)).slots == bounds


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"MILLRACE_SLOTS": "5", "MILLRACE_SLOTS_MAX": "7"}, "MILLRACE_SLOTS_MAX"),
        ({"MILLRACE_SLOTS_MIN": "8", "MILLRACE_SLOTS_MAX": "7"}, "MILLRACE_SLOTS_MIN"),
    ],
)
def test_slots_that_contradict_each_other_are_refused_by_name(variables: dict[str, str], named: str) -> None:
    environment = Environment(variables)
    read(environment)
    assert named in [one.path for one in environment._problems]


def test_slots_go_by_the_cores_of_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "__init__", lambda self: setattr(self, "cores", 1.5))
    settings = read(Environment({}))
    assert (settings.slots, settings.warm) == (SlotBounds(24, 96), 4)
