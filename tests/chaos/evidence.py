"""What both stores and the workflows' own file hold about a drill, read with administrator's rights past every service."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import asyncpg
from nats.aio.client import Client

from shared.client import connect
from shared.envelope import Envelope, open_envelope
from shared.errors import Unavailable
from shared.ordered_reader import OrderedReader
from shared.pull import Delivered, api_request
from tests.chaos.installation import READS_WITHIN
from tests.chaos.verdict import Mark, marks_of

ASKED_EVERY = 1.0
# Seconds until a drill is judged in any case.
LONGEST = 1800.0
ARCHIVED = "SELECT stream, count(DISTINCT (incarnation, seq)) AS n FROM logs.message WHERE stream = ANY($1) GROUP BY stream"


class Evidence(Protocol):
    """One drill's facts and what they add up to."""

    @property
    def streams(self) -> Sequence[str]:
        """Name the streams whose messages are noted."""

    def note(self, stream: str, envelope: Envelope, delivered: Delivered) -> None:
        """Add what one message says; each comes once, in the order of its stream."""

    def has_ended(self) -> bool:
        """Return whether the bus has the end of everything accepted; before that no row is read."""

    async def judge(self, database: asyncpg.Connection[Any], marks: list[Mark]) -> bool:
        """Read the rows and judge; return False when time may still heal something that is wrong."""


class Streams:
    """Follows the streams of a drill."""

    def __init__(self, client: Client, evidence: Evidence) -> None:
        self._client = client
        self._evidence = evidence
        self._read = dict.fromkeys(evidence.streams, 0)

    async def catch_up(self) -> bool:
        """Note what has come since the last time; return whether anything has. Raises `Unavailable`."""
        before = dict(self._read)
        for stream in self._read:
            info = await api_request(self._client, f"$JS.API.STREAM.INFO.{stream}", None)
            last = int(info["state"]["last_seq"])
            if last > self._read[stream]:
                await self._read_until(stream, last)
        return self._read != before

    async def _read_until(self, stream: str, last: int) -> None:
        reader = OrderedReader(self._client, stream, after=self._read[stream]).batches()
        try:
            async for batch in reader:
                for delivered in batch:
                    self._evidence.note(stream, open_envelope(delivered.data), delivered)
                    self._read[stream] = delivered.sequence
                if self._read[stream] >= last:
                    return
        finally:
            await reader.aclose()


async def settle(evidence: Evidence, ready: dict[str, Any], marks: Path, bound: float) -> None:
    """Wait until nothing is wrong that time may heal, or nothing has been stored for `bound` seconds.

    `evidence` has judged what there is then. A backlog that is being worked off is not stuck.
    """
    loop = asyncio.get_running_loop()
    latest, deadline = loop.time() + LONGEST, loop.time() + bound
    client = await connect(ready["nats_url"])
    try:
        streams = Streams(client, evidence)
        while True:
            is_late = loop.time() > min(deadline, latest)
            try:
                async with asyncio.timeout(READS_WITHIN):
                    if await streams.catch_up():
                        deadline = loop.time() + bound
                        is_late = loop.time() > latest
                    # Rows last: what they show is then on the bus, or was just read from it.
                    if is_late or evidence.has_ended():
                        is_settled = await _judged(evidence, ready["database_url"], marks)
                        if is_late or is_settled:
                            return
            except (Unavailable, OSError, asyncpg.PostgresError):
                if is_late:
                    raise
            await asyncio.sleep(ASKED_EVERY)  # the rows follow in their own time
    finally:
        await client.close()


async def _judged(evidence: Evidence, url: str, marks: Path) -> bool:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return await evidence.judge(connection, await asyncio.to_thread(marks_of, marks))
    finally:
        await connection.close()


async def archived(database: asyncpg.Connection[Any], streams: Sequence[str]) -> dict[str, int]:
    """Return by stream how many of its messages the archive has."""
    return {row["stream"]: row["n"] for row in await database.fetch(ARCHIVED, list(streams))}
