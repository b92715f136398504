"""Wakes requests that wait for the end of a run: one reader of terminal messages for the whole process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import structlog
from nats.aio.client import Client

from shared.errors import Unavailable
from shared.health import Health
from shared.projection import PAUSE
from shared.pull import OrderedReader, StreamError
from shared.runs import END_SUBJECTS, RUNS

_log = structlog.get_logger()
_PART = "run endings"


class Endings:
    """Resolves waiters by run id. A waiter is registered before its run is asked for, so that no end is missed."""

    def __init__(self, client: Client, health: Health) -> None:
        self._client = client
        self._health = health
        self._waiting: dict[str, set[asyncio.Future[bytes]]] = {}

    @contextlib.contextmanager
    def waiter(self, run: str) -> Iterator[asyncio.Future[bytes]]:
        """Give a future of the document of the run's end, when that comes during the block.

        It may miss an end while the broker is away: a waiter looks for itself now and then.
        """
        end: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(run, set())
        waiting.add(end)
        try:
            yield end
        finally:
            waiting.discard(end)
            if not waiting and self._waiting.get(run) is waiting:
                del self._waiting[run]

    async def run(self) -> None:
        """Read for ever."""
        after: int | None = None
        while True:
            reader = OrderedReader(self._client, RUNS, filters=END_SUBJECTS, start="new", after=after)
            try:
                batches = reader.batches()
                async with contextlib.aclosing(batches):
                    self._health.report(_PART, None)
                    async for batch in batches:
                        for delivered in batch:
                            after = delivered.sequence
                            for end in self._waiting.get(delivered.subject.split(".")[1], ()):
                                if not end.done():
                                    end.set_result(delivered.data)
                        self._health.report(_PART, None)
            except (Unavailable, StreamError) as error:
                self._health.report(_PART, str(error))
                _log.warning("endings.interrupted", reason=str(error))
            await asyncio.sleep(PAUSE)
