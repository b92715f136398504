"""Looks at runs for callers: so many at a time, and calls for the same run at the same time share one look.

A look reads the run's row and later messages, which are few: unless the rows are behind, or the run is new and
large already. Work does not queue here: claims read by themselves, as many at a time as there are slots.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from services.executor.runs.claim import read_now
from services.executor.runs.run_state import RunState
from services.executor.store import ExecutorStore
from shared.bus import Bus
from shared.errors import Unavailable

# Looks at a time: each may have a few MiB on their way.
PLACES = 8
# Those that wait for a place beyond: with the ones that have one, as many as questions are answered at once. Commands come on top.
QUEUE = 56


class Looks:
    """The looks of this process."""

    def __init__(self, bus: Bus, store: ExecutorStore, *, places: int = PLACES, queue: int = QUEUE) -> None:
        self._bus = bus
        self._store = store
        self._places = asyncio.Semaphore(places)
        self._queue = queue
        self._waiting = 0
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._coming: dict[str, asyncio.Task[RunState | None]] = {}
        self._reading: dict[str, asyncio.Task[RunState | None]] = {}

    async def state(self, run: str) -> RunState | None:
        """Return a run as it is now, of any organization; None where there is none.

        As far as its messages make sense: a run that cannot be folded, and is about to end for that, is shown all the same.
        Raises `Unavailable`.
        """
        look = self._coming.get(run)
        if look is None:
            # A look that has begun may miss messages that this caller knows of: callers from now on share the next one.
            look = self._coming[run] = asyncio.create_task(self._look(run, self._reading.get(run)))
            look.add_done_callback(_heard)
        return await asyncio.shield(look)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold one of the places for the block. Raises `Unavailable` where too many wait for one."""
        if self._places.locked() and self._waiting >= self._queue:
            raise Unavailable(f"{self._queue} questions about runs wait for the ones before them already", retry_after=2)
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._places.release()

    def alone(self, run: str) -> asyncio.Lock:
        """Return the lock of callers that look at a run and append to it: at once, all but one would conflict."""
        return self._locks.setdefault(run, asyncio.Lock())

    async def _look(self, run: str, before: asyncio.Task[RunState | None] | None) -> RunState | None:
        this = asyncio.current_task()
        try:
            if before is not None:
                await asyncio.wait([before])
            async with self.place():
                self._begin(run)
                return (await read_now(self._bus, self._store, run)).state
        except ValueError:
            return None  # this is no id
        finally:
            for looks in (self._coming, self._reading):
                if looks.get(run) is this:
                    del looks[run]

    def _begin(self, run: str) -> None:
        self._reading[run] = self._coming.pop(run)


def _heard(look: asyncio.Task[RunState | None]) -> None:
    """Consume an error without a caller left."""
    if not look.cancelled():
        look.exception()
