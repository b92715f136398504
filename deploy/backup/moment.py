"""The moment that a backup is of: one snapshot of the database and one sequence of each stream that belong together.

The database comes first, then the registries, then the sequences: rows, checkpoints and entries then never reflect a message that
the backup does not have, and what they do not reflect yet is read from the streams. Meanwhile, for a moment, the consumers of
events hand out nothing, so that a message is either acknowledged and its effects are before the cut, or it is neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
from nats.aio.client import Client

from deploy.positions import held
from shared.durables import NO_CONSUMER, backlog_of
from shared.envelope import rfc3339
from shared.pull import StreamError, api_request
from shared.streams import STREAMS, WORK, Work

# Seconds that messages in work are waited for; one that is put off is not.
DRAINED_WITHIN = 2.0
ASKED_EVERY = 0.01
# The broker ends the pause by itself if we die.
PAUSED_FOR = timedelta(seconds=60)


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """The time of a backup, the last sequence of each stream then, and the last acknowledged one of each durable consumer."""

    time: str
    cuts: dict[str, int]
    floors: dict[str, int]


async def choose(
    client: Client, connection: asyncpg.Connection[Any], registries: Callable[[], Awaitable[None]], *, working: bool
) -> tuple[str, Moment]:
    """Fix the moment; return the snapshot of the database, valid within the connection's open transaction, and the rest.

    `registries` saves what is to be between the two. `working` says that services run.
    """
    async with _paused(client, working=working):
        await connection.execute("SET idle_in_transaction_session_timeout = 0")
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        snapshot = await connection.fetchval("SELECT pg_export_snapshot()")
        floors = {work.name: await _floor(client, work) for work in WORK}
        await registries()
        cuts = {stream.name: (await held(client, stream.name)).last for stream in STREAMS}
    return snapshot, Moment(time=rfc3339(datetime.now(UTC)), cuts=cuts, floors=floors)


@asynccontextmanager
async def _paused(client: Client, *, working: bool) -> AsyncIterator[None]:
    """Let the consumers of events hand out nothing for the block, and what they handed out be done with; runs go on."""
    stopped = [work for work in WORK if working and not work.managed]
    try:
        await asyncio.gather(*(_pause(client, work, datetime.now(UTC) + PAUSED_FOR) for work in stopped))
        deadline = asyncio.get_running_loop().time() + DRAINED_WITHIN
        while asyncio.get_running_loop().time() < deadline:
            if not any([(await backlog_of(client, work, since=False)).in_work for work in stopped]):
                break
            await asyncio.sleep(ASKED_EVERY)  # the broker does not tell
        yield
    finally:
        await asyncio.gather(*(_pause(client, work, None) for work in stopped))


async def _pause(client: Client, work: Work, until: datetime | None) -> None:
    asked = {} if until is None else {"pause_until": rfc3339(until)}
    await api_request(client, f"$JS.API.CONSUMER.PAUSE.{work.stream}.{work.name}", asked, wait=15)


async def _floor(client: Client, work: Work) -> int:
    try:
        info = await api_request(client, f"$JS.API.CONSUMER.INFO.{work.stream}.{work.name}", None)
    except StreamError as error:
        if error.code != NO_CONSUMER:
            raise
        return 0
    return int(info["ack_floor"]["stream_seq"])
