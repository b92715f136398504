"""The latest events of sources that runs have just begun to wait for: read from the bus once, and kept for the waits that follow.

A source that nobody waits for costs nothing. What is kept has a bound for all sources together; without it events are read anew.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta

import msgspec
from nats.aio.client import Client

from services.events.awaiting.plan import Occurred
from shared import aggregate
from shared.aggregate import Stored

# Bytes of messages that are kept, of all sources together; as values they take a few times as much.
MOST_KEPT = 16 << 20
# Waits are not looked at quite in the order in which they began.
SLACK = timedelta(seconds=60)


class _Window(msgspec.Struct):
    """Events since a moment, each with its bytes, as far as the sequence `read`."""

    since: datetime
    read: int = 0
    size: int = 0
    events: deque[tuple[Occurred, int]] = msgspec.field(default_factory=deque)


class RecentEvents:
    """Reads events by `occurred`, which returns None for any other message. One source is read by one task at a time."""

    def __init__(self, client: Client, occurred: Callable[[Stored], Awaitable[Occurred | None]], most: int = MOST_KEPT) -> None:
        self._client = client
        self._occurred = occurred
        self._most = most
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    @property
    def size(self) -> int:
        """Return how many bytes of messages are kept."""
        return sum(one.size for one in self._windows.values())

    async def since(self, source: str, moment: datetime) -> AsyncIterator[Occurred]:
        """Yield the events of a source that were accepted since a moment, in order, up to now. Raises `Unavailable`."""
        window = self._windows.pop(source, None)
        if window is None or window.since > moment:
            window = _Window(moment)
            stream = aggregate.since(self._client, "event", source, moment)
        else:
            _forget(window, moment - SLACK)
            for one, _ in window.events:
                if one.at >= moment:
                    yield one
            stream = aggregate.history(self._client, "event", source, after=window.read)
        async for stored in stream:
            window.read = stored.sequence
            found = await self._occurred(stored)
            if found is None:
                continue
            # Data that travel by reference may be a hundred times as large as what refers to them: they are not kept.
            size = len(stored.document) if found.event.data_ref is None else self._most + 1
            window.events.append((found, size))
            window.size += size
            while window.size > self._most:
                window.since = max(window.since, window.events[0][0].at + timedelta(microseconds=1))
                window.size -= window.events.popleft()[1]
            yield found
        if window.read:
            self._windows[source] = window
            while self.size > self._most:
                self._windows.popitem(last=False)


def _forget(window: _Window, before: datetime) -> None:
    while window.events and window.events[0][0].at < before:
        window.size -= window.events.popleft()[1]
    window.since = max(window.since, before)
