"""Does things at once, up to a number of them; the others wait in a queue that decides their order."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

import structlog

from shared import tasks

T = TypeVar("T")

_log = structlog.get_logger()


class TaskQueue(Protocol[T]):
    """Holds what waits for its turn, and decides which is the next."""

    def put(self, item: T) -> None:
        """Let an item wait."""

    def get(self) -> T:
        """Take out the next one; asked only while there is one."""

    def __len__(self) -> int:
        """Return how many wait."""


class ArrivalOrder(Generic[T]):
    """A queue whose oldest is the next."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()

    def put(self, item: T) -> None:
        """Let an item wait."""
        self._items.append(item)

    def get(self) -> T:
        """Take out the oldest."""
        return self._items.popleft()

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._items)


class Turns(Generic[T]):
    """A queue in which each key that has items waiting has its turn, one item at a time; those of a key go oldest first."""

    def __init__(self, key: Callable[[T], str]) -> None:
        self._key = key
        self._items: OrderedDict[str, deque[T]] = OrderedDict()
        self._count = 0

    def put(self, item: T) -> None:
        """Let an item wait behind those of its key."""
        self._items.setdefault(self._key(item), deque()).append(item)
        self._count += 1

    def get(self) -> T:
        """Take out the oldest of the key whose turn it is, which goes behind all others."""
        key, items = self._items.popitem(last=False)
        self._count -= 1
        item = items.popleft()
        if items:
            self._items[key] = items
        return item

    def __len__(self) -> int:
        """Return how many wait."""
        return self._count


def is_room(own: int, taken: int, most: int, places: int) -> bool:
    """Return whether one who has `own` of the `taken` places may have another: `most` at most, and half of what others leave.

    So there is room for one more who comes, however many have as much as they may.
    """
    return own < min(most, places - taken)


class CappedTurns(Turns[T]):
    """`Turns` for `places`, of which no key has more than `is_room` says: `ended` is to be called at the end of each item."""

    def __init__(self, key: Callable[[T], str], most: int, places: int) -> None:
        super().__init__(key)
        self._most = most
        self._places = places
        self._under_way: Counter[str] = Counter()
        self._held_back: dict[str, deque[T]] = {}

    def put(self, item: T) -> None:
        """Let an item wait behind those of its key."""
        key = self._key(item)
        if key in self._held_back or not self._is_room(key):
            self._held_back.setdefault(key, deque()).append(item)
        else:
            super().put(item)

    def get(self) -> T:
        """Take out the oldest of the key whose turn it is."""
        item = super().get()
        self._under_way[self._key(item)] += 1
        # Whoever has some may have fewer now.
        for key in self._under_way:
            if key in self._items and not self._is_room(key):
                self._held_back[key] = self._items.pop(key)
                self._count -= len(self._held_back[key])
        return item

    def ended(self, item: T) -> None:
        """Let the next items of those who have room again have their turn."""
        key = self._key(item)
        self._under_way[key] -= 1
        if not self._under_way[key]:
            del self._under_way[key]
        for one in [one for one in self._held_back if self._is_room(one)]:
            self._items[one] = self._held_back.pop(one)
            self._count += len(self._items[one])

    def _is_room(self, key: str) -> bool:
        return is_room(self._under_way[key], self._under_way.total(), self._most, self._places)


class _Turn:
    """One who waits for a place of a `SharedPlaces`."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.come: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class SharedPlaces:
    """`places` that keys take turns at, of which none has more than `most`, nor half of what others leave."""

    def __init__(self, most: int, places: int) -> None:
        self._places = places
        self._taken = 0
        self._waiting: CappedTurns[_Turn] = CappedTurns(lambda one: one.key, most, places)

    @contextlib.asynccontextmanager
    async def turn(self, key: str, within: float) -> AsyncIterator[None]:
        """Have a place for the block, once it is this key's turn. Raises TimeoutError where it is not, after `within` seconds."""
        one = _Turn(key)
        self._waiting.put(one)
        self._begin()
        try:
            if not one.come.done():
                async with asyncio.timeout(within):
                    await one.come
            yield
        finally:
            if not one.come.cancel() and not one.come.cancelled():
                self._left(one)
                self._begin()

    def _begin(self) -> None:
        while self._taken < self._places and len(self._waiting):
            one = self._waiting.get()
            self._taken += 1
            if one.come.cancelled():
                self._left(one)
            else:
                one.come.set_result(None)

    def _left(self, one: _Turn) -> None:
        self._taken -= 1
        self._waiting.ended(one)


class BoundedTasks(Generic[T]):
    """Runs `work` for each item that is offered, `at_once` of them at the same time, each in a task and a context of its own.

    `freed` is called whenever one has ended. An exception of `work` is logged and ends nothing else.
    """

    def __init__(
        self,
        work: Callable[[T], Coroutine[Any, Any, None]],
        at_once: int,
        queue: TaskQueue[T],
        freed: Callable[[T], None] = lambda _: None,
    ) -> None:
        self._work = work
        self._at_once = at_once
        self._queue = queue
        self._freed = freed
        self._running: dict[asyncio.Task[None], T] = {}
        self._scheduled = False
        self._draining = False

    @property
    def running(self) -> int:
        """Return how many have begun and not ended."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Return how many have not begun."""
        return len(self._queue)

    def offer(self, item: T) -> None:
        """Begin an item when its turn comes. What arrives in one turn of the event loop is put in order together."""
        self._queue.put(item)
        if not self._scheduled and len(self._running) < self._at_once:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._begin)

    async def drain(self, within: float) -> list[T]:
        """Begin no more, and give those that run so many seconds to end; returns those that did not begin, or were cut off."""
        self._draining = True
        left = []
        while len(self._queue):
            left.append(self._queue.get())
        if self._running:
            await asyncio.wait(self._running, timeout=within)
        left += self._running.values()
        await tasks.end(self._running)
        return left

    def _begin(self) -> None:
        self._scheduled = False
        while len(self._running) < self._at_once and len(self._queue) and not self._draining:
            item = self._queue.get()
            task = asyncio.create_task(self._work(item))
            self._running[task] = item
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        item = self._running.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("task.failed", exc_info=error)
        self._begin()
        self._freed(item)
