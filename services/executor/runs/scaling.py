"""Scaling: the slots and the warm children of this executor follow the load, and who runs executors is told how many are wanted."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import structlog
from msgspec import structs
from nats.aio.client import Client

from services.executor.runs.shares import Shares
from services.executor.runs.worker import Worker
from services.executor.sandbox.machine import Machine
from services.executor.sizing import Load, PoolSize, RunUse, SlotBounds, replicas_for, resized
from shared.durables import WorkBacklog, backlog_of, lag
from shared.errors import Unavailable
from shared.pull import StreamError
from shared.service import descriptors
from shared.streams import Work

# Seconds between two looks while anything goes on, and while nothing does.
EVERY, IDLE = 0.5, 5.0
# Descriptors of one run: its process and pipes, the files of its group, and some connections through its proxy; and all others.
DESCRIPTORS, OTHER_DESCRIPTORS = 20, 500
_log = structlog.get_logger()


class WarmChildren(Protocol):
    """The children of runs, and those that are kept ready."""

    def cpu_seconds(self) -> float:
        """Return what all runs up to now have used of the cores, those that go on included."""

    def resize(self, part: float) -> None:
        """Keep so many times the children warm that were asked for at first."""


def allowed(bounds: SlotBounds) -> SlotBounds:
    """Have the descriptors that so many runs need, if the system lets us; return how many slots they allow, the least at least."""
    wanted = OTHER_DESCRIPTORS + bounds.most * DESCRIPTORS
    there = descriptors(wanted)
    if there >= wanted:
        return bounds
    most = max(bounds.least, (there - OTHER_DESCRIPTORS) // DESCRIPTORS)
    _log.warning("pool.few_descriptors", descriptors=there, wanted=wanted, slots_max=most)
    return SlotBounds(bounds.least, most)


class Scaling:
    """Looks at the load again and again. `served` is the work that this executor pulls, by the group of its runs."""

    def __init__(
        self,
        client: Client,
        served: Mapping[str, Sequence[Work]],
        bounds: SlotBounds,
        worker: Worker,
        shares: Shares,
        children: WarmChildren,
        use: RunUse,
        machine: Machine,
    ) -> None:
        self._client = client
        self._served = served
        self._bounds = bounds
        self._worker = worker
        self._shares = shares
        self._children = children
        self._use = use
        self._machine = machine
        self._size = PoolSize(slots=bounds.least)
        self._backlogs: dict[str, WorkBacklog] = {}
        self._load = Load(running=0)
        self._changes = 0
        self._timed_at = -IDLE
        self._used = (time.monotonic(), time.process_time())

    async def run(self) -> None:
        """Do so for ever."""
        reported: str | None = None
        while True:
            try:
                await self._count()
                reported = None
            except (Unavailable, StreamError) as error:
                if str(error) != reported:
                    reported = str(error)
                    _log.warning("scaling.interrupted", reason=reported)
            self._look()
            is_idle = not self._worker.taken and self._size.slots == self._bounds.least
            if not is_idle:
                await asyncio.sleep(EVERY)  # nothing announces what waits, or what is used
                continue
            self._worker.began.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE):
                    await self._worker.began.wait()

    def state(self) -> dict[str, Any]:
        """Return the slots and their bounds, how often they were changed, and what was measured."""
        load = self._load
        return {
            "slots": self._size.slots,
            "slots_min": self._bounds.least,
            "slots_max": self._bounds.most,
            "changes": self._changes,
            "cores": self._machine.cores,
            "cores_used": round(load.busy * self._machine.cores, 2),
            "cores_own": round(load.own * self._machine.cores, 2),
            **({} if load.free_mb is None else {"memory_free_mb": round(load.free_mb)}),
            "run_s": round(self._use.run_s, 3),
            "run_mb": round(self._use.run_mb, 1),
        }

    def wanted(self) -> dict[str, Any]:
        """Return, by group, what a scaler goes by: runs that wait and go on in all executors, and how many there should be."""
        fields: dict[str, dict[str, Any]] = {"queued": {}, "in_work": {}, "age_s": {}, "desired_replicas": {}}
        for group, served in self._served.items():
            found = self._lag(served)
            load = structs.replace(self._load, queued=sum(found["waiting"].values()))
            fields["queued"][group] = load.queued
            fields["in_work"][group] = in_work = sum(found["in_work"].values())
            fields["age_s"][group] = max(found["age_s"].values(), default=0.0)
            fields["desired_replicas"][group] = replicas_for(load, in_work, self._size, self._bounds)
        return fields

    def _own(self) -> float:
        """Return the part of the cores that runs and this process have used since the last call."""
        before, self._used = self._used, (time.monotonic(), self._children.cpu_seconds() + time.process_time())
        passed = self._used[0] - before[0]
        return max(0.0, (self._used[1] - before[1]) / (passed * self._machine.cores)) if passed > 0 else 0.0

    async def _count(self) -> None:
        """Ask the broker what waits. Raises `Unavailable`, `StreamError`."""
        served, now = self._all, asyncio.get_running_loop().time()
        # The broker may have to look through all that waits for the first of a kind: less often than it counts.
        is_timed = now - self._timed_at >= IDLE
        found = await asyncio.gather(*(backlog_of(self._client, work, since=is_timed) for work in served))
        if is_timed:
            self._timed_at = now
        else:
            found = [self._as_old_as_before(work, one) for work, one in zip(served, found, strict=True)]
        self._backlogs = {work.name: one for work, one in zip(served, found, strict=True)}

    def _as_old_as_before(self, work: Work, found: WorkBacklog) -> WorkBacklog:
        before = self._backlogs.get(work.name)
        return structs.replace(found, since=before.since) if before is not None and found.undelivered else found

    @property
    def _all(self) -> list[Work]:
        return [work for served in self._served.values() for work in served]

    def _lag(self, served: Iterable[Work]) -> dict[str, Any]:
        return lag({work.name: self._backlogs[work.name] for work in served if work.name in self._backlogs})

    def _look(self) -> None:
        memory = self._machine.memory()
        found = self._lag(self._all)
        self._load = load = Load(
            running=self._worker.taken - self._shares.in_place,
            queued=sum(found["waiting"].values()) + self._shares.in_place,
            oldest_s=max(found["age_s"].values(), default=0.0),
            run_s=self._use.run_s,
            run_mb=self._use.run_mb,
            busy=self._machine.busy(),
            own=self._own(),
            free_mb=None if memory is None else memory.free_mb,
            memory_mb=None if memory is None else memory.total_mb,
        )
        before, self._size = self._size, resized(self._size, load, self._bounds, asyncio.get_running_loop().time())
        if self._size.slots == before.slots:
            return
        self._changes += 1
        slots = self._size.slots
        self._worker.resize(slots)
        self._shares.resize(slots)
        self._children.resize(slots / self._bounds.least)
        _log.info(
            "pool.resized", slots=slots, before=before.slots, reason=self._size.reason, running=load.running, queued=load.queued,
            age_s=load.oldest_s, run_s=round(load.run_s, 3), cores_used=round(load.busy * self._machine.cores, 2),
            cores_own=round(load.own * self._machine.cores, 2),
            memory_free_mb=None if load.free_mb is None else round(load.free_mb),
        )  # fmt: skip
