"""Purging ended runs from the bus: their subjects cost the broker memory, and the archive has their messages.

A run goes in three steps, each of which may be repeated: its row is marked as going, its messages are purged, its row is marked
as gone. A process killed in between leaves a row that is going, which the next round takes up again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

import structlog
from nats.aio.client import Client
from sqlalchemy.ext.asyncio import AsyncEngine

from services.executor import domain, store
from shared import db
from shared.bus import Bus
from shared.checkpoint import position_of
from shared.envelope import utc_now
from shared.leader import lead
from shared.messages import RunRequested
from shared.messages.declaration import checked_key, declaration_of
from shared.messages.shards import in_shard
from shared.projection import incarnation_of
from shared.pull import api_request
from shared.questions.events import DeliveriesPosition
from shared.questions.logs import ArchivePosition
from shared.runs import RUN_STREAMS, run_stream

LOCK = "executor.purge"
# Runs per round: as many rows are marked by one statement, and done again by the successor of a killed process.
ROUND = 100
# Seconds between looks when nothing is left to do.
PAUSE = 60.0
# After each purge the broker is left alone for as many times as long as the purge took: live work comes first. On two small cores
# a run of four messages took 3 ms, so that 60 a second (five million a day) go while the median append takes 0.6 ms, not 0.5.
REST = 3.0

_log = structlog.get_logger()


class PurgeDeps(Protocol):
    """Dependencies of purging."""

    bus: Bus
    engine: AsyncEngine
    database_url: str


class Purger:
    """Removes the messages of runs that ended longer than `kept` ago; of several replicas one is active."""

    def __init__(self, deps: PurgeDeps, *, kept: timedelta, now: Callable[[], datetime] = utc_now, pause: float = PAUSE) -> None:
        self._deps = deps
        self._kept = kept
        self._now = now
        self._pause = pause

    async def run(self) -> None:
        """Purge for ever; an obstacle is logged, once, and waited out."""
        await lead(
            self.round,
            url=self._deps.database_url,
            service="executor",
            lock=LOCK,
            pause=self._pause,
            full=ROUND,
            interrupted="purge.interrupted",
        )

    async def round(self) -> int:
        """Purge up to `ROUND` runs; returns how many. Does no harm beside another round.

        Raises `Unavailable` while one of the required readers does not answer, and then purges nothing.
        """
        deps = self._deps
        up_to = [await passed(deps, stream) for stream in RUN_STREAMS]
        async with db.transaction(deps.engine) as connection:
            begun = await store.begin_purge(connection, before=self._now() - self._kept, up_to=up_to, limit=ROUND)
        loop = asyncio.get_running_loop()
        for run, last_seq in begun:
            at = loop.time()
            try:
                await purge(deps.bus.client, run, last_seq)
            except ValueError as error:
                # A row whose id is no key has no messages: it is done with, and stands in no other's way.
                _log.error("run.not_purged", run=run, reason=str(error))
            await asyncio.sleep(REST * (loop.time() - at))
        if begun:
            async with db.transaction(deps.engine) as connection:
                await store.end_purge(connection, begun)
            _log.info("runs.purged", count=len(begun))
        return len(begun)


async def passed(deps: PurgeDeps, stream: str) -> int:
    """Return the sequence of RUNS, or of a shard, up to which every reader has written its rows. Raises `Unavailable`."""
    rows = in_shard("runs", RUN_STREAMS.index(stream))
    readers = [
        await deps.bus.ask(ArchivePosition(org="global", stream=stream)),
        # A run's end that its delivery has not recorded would never be recorded.
        await deps.bus.ask(DeliveriesPosition(org="global", stream=stream)),
        await position_of(deps.engine, stream, projection=rows),
    ]
    # Asked last: positions of a stream that was made anew in the meantime do not fit.
    return domain.passed_by_all(await incarnation_of(deps.bus.client, stream), readers)


async def purge(client: Client, run: str, last_seq: int) -> None:
    """Remove the messages of a run up to `last_seq`; later ones may not be archived.

    Raises `Unavailable`, also when the messages may have been removed.
    """
    # The server takes the first sequence to be kept.
    await api_request(
        client,
        f"$JS.API.STREAM.PURGE.{run_stream(checked_key(run))}",
        {"filter": declaration_of(RunRequested).aggregate(run), "seq": last_seq + 1},
    )
