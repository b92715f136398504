"""Reports things that come in crowds: the first at once, those that follow within a second together with their number."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

# Seconds; things of one kind are reported once in so many, with their number.
WINDOW = 1.0
# Kinds (a source, a remote address) that are counted apart; above it they share one.
WINDOWS = 1024
# Seconds that the end of the service waits for reports under way.
FINISH = 2.0

T = TypeVar("T")


class Crowds(Generic[T]):
    """Calls `publish` with the last thing of a kind and how many there were."""

    def __init__(self, publish: Callable[[T, int], Awaitable[None]]) -> None:
        self._publish = publish
        self._windows: dict[Hashable, _Window[T]] = {}
        self._publishing: set[asyncio.Task[None]] = set()

    def record(self, kind: Hashable, thing: T, *, crowd: Hashable = None) -> None:
        """Publish a thing in the background; `crowd` is its kind where there are too many kinds already."""
        if kind not in self._windows and len(self._windows) >= WINDOWS:
            kind = crowd
        window = self._windows.get(kind)
        if window is not None:
            window.last = thing
            window.count += 1
            return
        self._open(kind, thing, 1)

    async def finish(self) -> None:
        """Report waiting counts; for the end of the service."""
        for kind in list(self._windows):
            self._close(kind)
        if self._publishing:
            await asyncio.wait(self._publishing, timeout=FINISH)

    def _open(self, kind: Hashable, thing: T, count: int) -> None:
        self._windows[kind] = _Window(thing)
        task = asyncio.ensure_future(self._publish(thing, count))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)
        asyncio.get_running_loop().call_later(WINDOW, self._close, kind)

    def _close(self, kind: Hashable) -> None:
        window = self._windows.pop(kind, None)
        if window is not None and window.count:
            self._open(kind, window.last, window.count)


class _Window(Generic[T]):
    """A second of one kind: the last thing, and how many came after the one that was reported."""

    def __init__(self, last: T) -> None:
        self.last = last
        self.count = 0
