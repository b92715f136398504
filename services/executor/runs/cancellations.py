"""Watches the requests to stop runs, and stops those that are here."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from services.executor.runs.supervisor import Runs
from shared.bus import Bus
from shared.errors import Unavailable
from shared.messages import RunCancelRequested, declaration_of
from shared.messages.shards import subject_in
from shared.ordered_reader import OrderedReader
from shared.projection import PAUSE
from shared.pull import StreamError
from shared.runs import RUN_SHARDS, RUN_STREAMS

_log = structlog.get_logger()


async def watch_cancellations(bus: Bus, runs: Runs) -> None:
    """Stop runs of this process whose cancellation is requested; for ever."""
    await asyncio.gather(*(_watch(bus, runs, shard) for shard in range(RUN_SHARDS)))


async def _watch(bus: Bus, runs: Runs, shard: int) -> None:
    filters = (subject_in(declaration_of(RunCancelRequested).pattern(), shard),)
    reader = OrderedReader(bus.client, RUN_STREAMS[shard], filters=filters, start="new")
    while True:
        try:
            batches = reader.batches()
            async with contextlib.aclosing(batches):
                async for batch in batches:
                    for delivered in batch:
                        # The subject names the run, also for an unreadable message.
                        runs.cancel(delivered.subject.split(".")[1])
        except (Unavailable, StreamError) as error:
            _log.warning("cancellations.interrupted", reason=str(error))
        await asyncio.sleep(PAUSE)
