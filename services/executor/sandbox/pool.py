"""The pool: children that are already sandboxed and wait, so that a run begins in a tenth of a millisecond.

A child goes one way only:

        +-----------------+
        |                 v
    starting --> blank --> placed --> serving --> ending --> gone
                   |          |                     ^
                   +----------+---------------------+   (retired, or found dead)

starting: asked of the zygote, or raising its walls: all of them at once where its bundle is known.
blank: waits for any bundle; runs no author's code and sees all bundles. placed: behind all walls with one bundle, waits for a
job with just that. serving: has had its one job. ending: killed, being reaped and cleared.

How many: between `least` and `most` wait, `most` being bounded by the memory for waiting children. The target
follows demand: as many as are taken while one can be started anew, by the rate of the last second, and at least as many as
are asked for at once; it sinks to `least` after `_IDLE` seconds without a request. Of those that wait one in four stays
blank, at least one; the others are placed for the bundles of the last takes, in proportion: the recent past is the forecast.
A bundle that was asked for once only gets none.

A child is chosen by bundle, not by organization. A child knows its bundle, which is the hash of a workspace's content, and
nothing of an organization before its one job comes: a workflow of `global` that two organizations run finds the same child,
and finds in it nothing of the other.
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from pathlib import Path

from services.executor.sandbox.errors import SandboxUnavailable
from services.executor.sandbox.process import Child, CodePaths

_REFILL_AFTER = 0.01
"""Seconds until a child that was taken is replaced, unless it was the last or its run ends before: a start takes some
milliseconds of a core, which would be felt by a short run that has just begun."""
_IDLE = 30.0
"""Seconds without a take after which the pool shrinks; a burst mostly comes in company."""
_CHILD_MB = 4
"""Memory of its own that a waiting child takes: measured 1.2 to 1.6 MB and its namespaces, and a margin."""
_START_S = 0.01
"""Seconds in which a child can be started on a machine that is not idle."""


class ChildPool:
    """Children in waiting. `start` begins one, placed or blank; it raises `SandboxUnavailable` where none can be started."""

    def __init__(
        self,
        start: Callable[[CodePaths | None], Awaitable[Child]],
        *,
        least: int,
        most: int,
        memory_mb: int = 256,
        places: bool = True,
    ) -> None:
        """With `places` False `start` is asked for no certain bundle: nothing is gained by placing early, or all are for one."""
        self._start = start
        self._least = max(1, least)
        # The least that was asked for is the operator's word.
        self._fitting = max(self._least, memory_mb // _CHILD_MB)
        self._most = max(self._least, min(most, self._fitting))
        self._places = places
        self._slots: deque[asyncio.Task[Child]] = deque()
        self._plans: dict[asyncio.Task[Child], CodePaths | None] = {}
        """The bundle for which each was begun."""
        self._takes: deque[tuple[float, CodePaths]] = deque(maxlen=64)
        self._asking = 0
        self._retiring: set[asyncio.Task[None]] = set()
        self._is_open = True
        self._soon: asyncio.TimerHandle | None = None
        self._later: asyncio.TimerHandle | None = None

    @property
    def target(self) -> int:
        """Answer how many should wait now."""
        now = asyncio.get_running_loop().time()
        if not self._takes or now - self._takes[-1][0] > _IDLE:
            return max(self._least, min(self._asking, self._most))
        lately = [at for at, _ in self._takes if now - at < 1.0]
        rate = len(lately) / max(now - lately[0], _START_S) if len(lately) > 1 else 0.0
        return max(self._least, min(self._most, max(self._asking, math.ceil(rate * _START_S))))

    def resize(self, least: int, most: int) -> None:
        """Keep from `least` to `most` children waiting from now on; no more than there is memory for."""
        self._least = max(1, min(least, self._fitting))
        self._most = max(self._least, min(most, self._fitting))
        self.tend_soon()

    @property
    def waiting(self) -> list["asyncio.Task[Child]"]:
        """Answer the children that wait or are being started."""
        return list(self._slots)

    def counts(self) -> dict[str, int]:
        """Answer how many children are in each state of waiting, how many should be, and how many takes wait for one."""
        there = [slot for slot in self._slots if slot.done() and not slot.cancelled() and slot.exception() is None]
        blank = sum(slot.result().place is None for slot in there)
        return {
            "waiting": self._asking,
            "starting": sum(not slot.done() for slot in self._slots),
            "blank": blank,
            "placed": len(there) - blank,
            "target": self.target,
            "most": self._most,
        }

    async def take(self, place: CodePaths) -> Child:
        """Take a child that is placed with just this; best one that was already. It is the caller's to `end`.

        Raises `SandboxUnavailable`.
        """
        self._takes.append((asyncio.get_running_loop().time(), place))
        self._asking += 1
        has_failed = False
        try:
            while True:
                child = await self._any(place)
                if not child.usable:
                    await child.end()
                    continue
                try:
                    if child.place is None:
                        await child.put(place)
                except SandboxUnavailable:
                    # It was killed just now, or the bundle cannot be placed: a second child shows which.
                    if has_failed:
                        raise
                    has_failed = True
                    continue
                return child
        finally:
            self._asking -= 1

    def tend(self) -> None:
        """Bring the pool to its target."""
        for timer in (self._soon, self._later):
            if timer is not None:
                timer.cancel()
        self._soon = self._later = None
        if not self._is_open:
            return
        target = self.target
        while len(self._slots) < target:
            self._begin(self._forecast())
        if len(self._slots) > target:
            idle = sorted((slot for slot in self._slots if slot.done()), key=self._worth)
            for slot in idle[: len(self._slots) - target]:
                self._retire(slot)
        if target > self._least:
            self._later = asyncio.get_running_loop().call_later(_IDLE, self.tend)

    def tend_soon(self) -> None:
        """Replace the children taken, shortly."""
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(_REFILL_AFTER, self.tend)

    def forget(self, bundle: Path) -> None:
        """Retire the children placed with this bundle, or about to be, and expect no more takes of it."""
        self._takes = deque((one for one in self._takes if one[1].bundle != bundle), maxlen=self._takes.maxlen)
        for slot in [slot for slot in self._slots if (place := self._purpose(slot)) is not None and place.bundle == bundle]:
            if slot.done():
                self._retire(slot)
            else:
                self._slots.remove(slot)
                slot.add_done_callback(self._discard)
        self.tend_soon()

    async def first(self) -> None:
        """Wait until one child is ready. Raises `SandboxUnavailable`."""
        self.tend()
        await asyncio.shield(self._slots[0])

    async def close(self) -> None:
        """End every child that waits, and start none any more."""
        self._is_open = False
        self.tend()
        slots, self._slots = self._slots, deque()
        for slot in slots:
            slot.cancel()
        for found in await asyncio.gather(*slots, return_exceptions=True):
            if isinstance(found, Child):
                await found.end()
        while self._retiring:
            await asyncio.wait(self._retiring)

    async def _any(self, place: CodePaths) -> Child:
        """Take the best child for a place: one that is there, else the first that comes."""
        while True:
            if not self._is_open:
                msg = "the sandbox is not started"
                raise SandboxUnavailable(msg)
            found = self._best(place)
            slot = found or self._begin(place if self._places else None)
            self._slots.remove(slot)
            try:
                return await asyncio.shield(slot)
            except asyncio.CancelledError:
                if self._is_open:
                    self._slots.appendleft(slot)
                else:  # closed meanwhile, which has seen to the slots that were here
                    slot.add_done_callback(self._discard)
                raise
            except SandboxUnavailable:
                if (
                    found is not None
                ):  # begun before, perhaps by a zygote that is dead: it only counts whether one can be started now
                    continue
                raise

    def _best(self, place: CodePaths) -> "asyncio.Task[Child] | None":
        """Answer a placed child, else a blank one, else one that will be either; None where all are for other bundles."""
        blank = coming = None
        for slot in self._slots:
            if not slot.done():
                if self._plans[slot] in (None, place):
                    coming = coming or slot
            elif slot.cancelled() or slot.exception() is not None or slot.result().place == place:
                return slot
            elif slot.result().place is None:
                blank = blank or slot
        return blank or coming

    def _begin(self, place: CodePaths | None) -> "asyncio.Task[Child]":
        slot = asyncio.create_task(self._prepared(place))
        self._plans[slot] = place
        slot.add_done_callback(self._plans.pop)
        self._slots.append(slot)
        return slot

    async def _prepared(self, place: CodePaths | None) -> Child:
        return await self._start(place)

    def _forecast(self) -> CodePaths | None:
        """Answer the bundle that most lacks a child, or None to leave one blank."""
        if not self._places:
            return None
        there = Counter(self._purpose(slot) for slot in self._slots)
        target = len(self._slots) + 1
        if there[None] < max(1, target // 4):
            return None
        asked = Counter(place for _, place in self._takes)
        total = asked.total()
        lacking = {place: target * count / total - there[place] for place, count in asked.items() if count > 1}
        best = max(lacking, key=lambda place: lacking[place], default=None)
        return best if best is not None and lacking[best] > 0 else None

    def _purpose(self, slot: "asyncio.Task[Child]") -> CodePaths | None:
        """Return the bundle that a child waits for, or will."""
        if not slot.done():
            return self._plans[slot]
        return None if slot.cancelled() or slot.exception() is not None else slot.result().place

    def _worth(self, slot: "asyncio.Task[Child]") -> int:
        """Return how often the last takes asked for a bundle that a waiting child can run."""
        if slot.cancelled() or slot.exception() is not None:
            return -1
        place = slot.result().place
        return len(self._takes) if place is None else sum(one == place for _, one in self._takes)

    def _retire(self, slot: "asyncio.Task[Child]") -> None:
        self._slots.remove(slot)
        self._discard(slot)

    def _discard(self, slot: "asyncio.Task[Child]") -> None:
        if slot.cancelled() or slot.exception() is not None:
            return
        ending = slot.result().ending()
        self._retiring.add(ending)
        ending.add_done_callback(self._retiring.discard)
