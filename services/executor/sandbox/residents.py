"""Children that serve several runs, one after the other, where the workflow allows it: `isolation="workflow"`.

A child stays only for the same organization, workflow and code; after a run that ended by a result or an error of its own; when it
reports that nothing of the run goes on; and not for long: `MOST_RUNS` runs, `LONGEST` seconds, half of a run's memory.
The next run finds the state that one leaves in modules: that is the bargain. Masking still knows the secrets of earlier runs.
"""

import asyncio
import time
from collections.abc import Callable, Hashable
from typing import Any

from services.executor.sandbox import frames
from services.executor.sandbox.process import Child

MOST_RUNS = 100
LONGEST = 300.0
"""Seconds from the first run of a child to the beginning of its last."""
IDLE = 30.0
"""Seconds without a run after which a child is ended."""
_READY_WITHIN = 2.0
"""Seconds in which a child must have restored its state: it takes less than a millisecond."""


class Resident:
    """A child with its history."""

    def __init__(self, child: Child, *, most: int = MOST_RUNS, longest: float = LONGEST, idle: float = IDLE) -> None:
        self.child = child
        self._most, self._longest, self._idle = most, longest, idle
        self.runs = 1
        self.since = time.monotonic()
        self.idle_since = self.since

    @property
    def is_spent(self) -> bool:
        """Whether it may not begin another run."""
        now = time.monotonic()
        is_old = now - self.since > self._longest or now - self.idle_since > self._idle
        return self.runs >= self._most or is_old or not self.child.usable


class Residents:
    """Children that wait for another run, by the key of that run. At most `most`: for one more, the longest idle one is ended."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._free: dict[Hashable, list[Resident]] = {}
        """The longest idle one of each key first."""
        self._returning: dict[Resident, tuple[Hashable, asyncio.TimerHandle]] = {}
        """Children that are to report that they are ready, with their key and the time-out."""
        self._ending: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def count(self) -> int:
        """The number of children that wait."""
        return sum(map(len, self._free.values()))

    def take(self, key: Hashable) -> Resident | None:
        """Answer a child that has served this key before, and waits; the one that was used last."""
        waiting = self._free.get(key, [])
        while waiting:
            found = waiting.pop()
            if not waiting:
                self._free.pop(key, None)
            if not found.is_spent:
                found.runs += 1
                return found
            self._end(found.child)
        return None

    def give(self, key: Hashable, resident: Resident) -> None:
        """Take a child back after a run: it is kept once it reports that it is ready, else ended."""
        resident.idle_since = time.monotonic()
        overdue = asyncio.get_running_loop().call_later(_READY_WITHIN, self._give_up, resident)
        self._returning[resident] = (key, overdue)
        resident.child.control.listen(
            lambda frame, _size: self._keep(resident) if isinstance(frame, frames.Again) else self._give_up(resident),
            lambda _error: self._give_up(resident),
        )

    def forget(self, is_meant: Callable[[Any], bool]) -> None:
        """End those that wait for keys of which this is true."""
        for resident in [one for one, (key, _) in self._returning.items() if is_meant(key)]:
            self._give_up(resident)
        for key in [key for key in self._free if is_meant(key)]:
            for resident in self._free.pop(key):
                self._end(resident.child)

    async def close(self) -> None:
        """End all of them."""
        self._is_closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        self.forget(lambda _key: True)
        while self._ending:
            await asyncio.wait(self._ending)

    def _keep(self, resident: Resident) -> None:
        # A run that is a fork must be gone: the word of one that is not would be that of an adversary.
        if resident.is_spent or self._is_closed or (resident.child.is_forked and not resident.child.has_forked()):
            self._give_up(resident)
            return
        key = self._returned(resident)
        if self.count >= self.most:
            self._end_longest_idle()
        self._free.setdefault(key, []).append(resident)
        self._sweep_later()

    def _give_up(self, resident: Resident) -> None:
        self._returned(resident)
        self._end(resident.child)

    def _returned(self, resident: Resident) -> Hashable:
        key, overdue = self._returning.pop(resident)
        overdue.cancel()
        resident.child.control.mute()
        return key

    def _end_longest_idle(self) -> None:
        key = min(self._free, key=lambda one: self._free[one][0].idle_since)
        waiting = self._free[key]
        self._end(waiting.pop(0).child)
        if not waiting:
            del self._free[key]

    def _sweep_later(self) -> None:
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(IDLE / 2, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = None
        for key, waiting in list(self._free.items()):
            for resident in [one for one in waiting if one.is_spent]:
                waiting.remove(resident)
                self._end(resident.child)
            if not waiting:
                del self._free[key]
        if self._free:
            self._sweep_later()

    def _end(self, child: Child) -> None:
        ending = child.ending()
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
