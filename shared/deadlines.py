"""Ends futures that wait too long for the broker."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from shared.errors import Unavailable

# Pause between looks at the deadlines of the waiting callers.
TICK = 0.1


class Deadlines:
    """Ends futures that wait too long, with one timer for all of them: a timer each costs as much as the message."""

    def __init__(self) -> None:
        self._watched: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, waiter: asyncio.Future[Any], timeout: float) -> None:
        """Fail `waiter` with `Unavailable` after `timeout` seconds, at most a tenth of a second late."""
        loop = asyncio.get_running_loop()
        self._watched.append((loop.time() + timeout, waiter))
        if self._timer is None:
            self._timer = loop.call_later(min(timeout, TICK), self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        kept: deque[tuple[float, asyncio.Future[Any]]] = deque()
        for deadline, waiter in self._watched:
            if waiter.done():
                continue
            if deadline <= now:
                waiter.set_exception(Unavailable("the broker did not confirm the message in time"))
            else:
                kept.append((deadline, waiter))
        self._watched = kept
        self._timer = loop.call_later(TICK, self._look) if kept else None
