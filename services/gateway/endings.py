"""Wakes requests that wait for the end of a run: one reader of terminal messages, of each shard, for the whole process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import structlog
from nats.aio.client import Client

from shared.errors import Unavailable
from shared.health import Health
from shared.messages.shards import in_shard, subject_in
from shared.ordered_reader import OrderedReader
from shared.projection import PAUSE
from shared.pull import StreamError
from shared.runs import END_SUBJECTS, RUN_SHARDS, RUN_STREAMS

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
        await asyncio.gather(*(self._read(shard) for shard in range(RUN_SHARDS)))

    async def _read(self, shard: int) -> None:
        after: int | None = None
        filters, part = tuple(subject_in(one, shard) for one in END_SUBJECTS), in_shard(_PART, shard)
        while True:
            reader = OrderedReader(self._client, RUN_STREAMS[shard], filters=filters, start="new", after=after)
            try:
                batches = reader.batches()
                async with contextlib.aclosing(batches):
                    self._health.report(part, None)
                    async for batch in batches:
                        for delivered in batch:
                            after = delivered.sequence
                            for end in self._waiting.get(delivered.subject.split(".")[1], ()):
                                if not end.done():
                                    end.set_result(delivered.data)
                        self._health.report(part, None)
            except (Unavailable, StreamError) as error:
                self._health.report(part, str(error))
                _log.warning("endings.interrupted", reason=str(error))
            await asyncio.sleep(PAUSE)
