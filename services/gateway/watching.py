"""Wakes the watchers of a run when there may be something new: one reader per stream for the whole process.

A watcher is only woken, and asks for the news from its own position. So nothing is kept for slow watchers, and nothing is lost or
sent twice, even when the reader was replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator

import structlog
from nats.aio.client import Client

from shared.bounded import is_room
from shared.errors import Unavailable
from shared.ordered_reader import OrderedReader
from shared.projection import PAUSE
from shared.pull import StreamError
from shared.runs import RUN_STREAMS

# Of all connections so many may watch at a time, and of these so many those of one organization: each asks others again and again.
OF_CONNECTIONS, OF_ALL = 2, 2
# Seconds after which one that finds no room may try again.
TRY_AGAIN = 5.0
STREAMS = (*RUN_STREAMS, "LINES")

_log = structlog.get_logger()


class Watching:
    """Wakes watchers by run id. A watcher looks once after it is registered, and whenever it is woken."""

    def __init__(self, client: Client, connections: int) -> None:
        self._client = client
        self._connections = connections
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._of_org: Counter[str] = Counter()
        self._wanted = asyncio.Event()
        self.closing = False

    @contextlib.contextmanager
    def watch(self, run: str, org: str) -> Iterator[asyncio.Event]:
        """Give an event that is set when there may be something new about the run. Raises as `admitted`."""
        with self.admitted(org):
            event = asyncio.Event()
            watching = self._watchers.setdefault(run, set())
            watching.add(event)
            self._wanted.set()
            try:
                yield event
            finally:
                watching.discard(event)
                if not watching and self._watchers.get(run) is watching:
                    del self._watchers[run]
                if not self._watchers:
                    self._wanted.clear()

    @contextlib.contextmanager
    def admitted(self, org: str) -> Iterator[None]:
        """Count one of an organization who watches runs, or anything else. Raises `Unavailable` where there is no room for it."""
        own, taken = self._of_org[org], self._of_org.total()
        most = max(1, self._connections // OF_CONNECTIONS)
        if self.closing or not is_room(own, taken, max(1, most // OF_ALL), most):
            raise Unavailable(f"{taken} streams are watched here already, {own} of {org}", retry_after=TRY_AGAIN)
        self._of_org[org] += 1
        try:
            yield
        finally:
            self._of_org[org] -= 1
            if not self._of_org[org]:
                del self._of_org[org]

    def close(self) -> None:
        """Have every watcher end: the process does."""
        self.closing = True
        self._wake_all()

    async def run(self) -> None:
        """Read for ever, while there is a watcher."""
        await asyncio.gather(*(self._read(stream) for stream in STREAMS))

    async def _read(self, stream: str) -> None:
        while True:
            await self._wanted.wait()
            try:
                await self._wake(OrderedReader(self._client, stream, start="new", headers_only=True))
            except (Unavailable, StreamError) as error:
                _log.warning("watching.interrupted", stream=stream, reason=str(error))
                await asyncio.sleep(PAUSE)

    async def _wake(self, reader: OrderedReader) -> None:
        """Wake the watchers of each message, until there is none."""
        created = asyncio.ensure_future(self._made(reader))
        batches = reader.batches()
        try:
            async with contextlib.aclosing(batches):
                async for batch in batches:
                    for run in {delivered.subject.split(".")[1] for delivered in batch}:
                        for event in self._watchers.get(run, ()):
                            event.set()
                    if not self._watchers:
                        return
        finally:
            created.cancel()

    async def _made(self, reader: OrderedReader) -> None:
        """Wake all once the reader is there: they may have looked before, and later messages had no reader."""
        await reader.created.wait()
        self._wake_all()

    def _wake_all(self) -> None:
        for watching in self._watchers.values():
            for event in watching:
                event.set()
