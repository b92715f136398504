"""Webhooks that are followed to the ends of their runs, and the bare publishes that they are compared with."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import asyncpg
import msgspec
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from bench.support.connection import Connection, Post
from bench.support.limits import SUBJECT
from bench.support.outcome import BenchError

WITHIN = 30.0
# Seconds between looks into the archive: each look takes some 0.2 ms of the cores that are being measured.
LOOK = 0.0005
BARE = b"x" * 512


class _Told(msgspec.Struct):
    id: str
    type: str
    correlationid: str


class Webhook(msgspec.Struct, frozen=True):
    """One webhook: its delivery's id, and when it was sent and when its end was seen in the archive, in epoch seconds."""

    id: str
    sent: float
    archived: float

    @property
    def milliseconds(self) -> float:
        """Return how long it took."""
        return (self.archived - self.sent) * 1000


class Webhooks:
    """Sends one webhook again and again. `ended` counts the runs that have succeeded; any other end is an error."""

    def __init__(self, post: Post, client: Client, archive: asyncpg.Connection[Any]) -> None:
        self._post = post
        self._encoded = post.encoded()
        self.client = client
        self._archive = archive
        self._free: deque[tuple[Connection, list[asyncio.Future[bytes]]]] = deque()
        self._ends: dict[str, asyncio.Future[None]] = {}
        self.ended = 0

    @classmethod
    @asynccontextmanager
    async def running(cls, post: Post, nats_url: str, archive: asyncpg.Connection[Any]) -> AsyncIterator[Self]:
        """Listen to the ends of runs for the block; connections are opened as they are needed."""
        client = await nats.connect(nats_url)
        made = cls(post, client, archive)
        try:
            await client.subscribe("run.*.*", cb=made._told)
            await client.flush()
            yield made
        finally:
            for connection, _ in made._free:
                connection.close()
            await client.close()

    async def completed(self) -> str:
        """Send one and wait for the end of its run; returns its delivery's id."""
        _, delivery = await self._sent()
        await self._end(delivery)
        return delivery

    async def archived(self) -> Webhook:
        """Send one and wait until the end of its run is a row of the archive."""
        sent, delivery = await self._sent()
        # The broker tells of the end; until then nobody asks the database, whose work is part of what is measured.
        await self._end(delivery)
        deadline = time.monotonic() + WITHIN
        while not await self._archive.fetchval(
            "SELECT 1 FROM logs.message WHERE correlation_id = $1 AND type = 'run.succeeded'", delivery
        ):
            if time.monotonic() > deadline:
                raise BenchError(f"the end of {delivery} does not come into the archive")
            await asyncio.sleep(LOOK)
        return Webhook(delivery, sent, time.time())

    async def _sent(self) -> tuple[float, str]:
        connection, waiting = self._free.popleft() if self._free else await self._opened()
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        waiting.append(answer)
        sent = time.time()
        connection.send(self._encoded)
        async with asyncio.timeout(WITHIN):
            body = await answer
        self._free.append((connection, waiting))
        return sent, msgspec.json.decode(body)["id"]

    async def _opened(self) -> tuple[Connection, list[asyncio.Future[bytes]]]:
        waiting: list[asyncio.Future[bytes]] = []

        def answered(status: int, body: bytes) -> None:
            answer = waiting.pop()
            if answer.done():
                return
            if status == 202:
                answer.set_result(body)
            else:
                answer.set_exception(BenchError(f"a webhook was answered {status}: {body.decode()}"))

        def lost() -> None:
            for answer in waiting:
                if not answer.done():
                    answer.set_exception(BenchError("the gateway closed a connection"))

        return await Connection.open(self._post.url, answered, lost), waiting

    async def _end(self, delivery: str) -> None:
        try:
            async with asyncio.timeout(WITHIN):
                await self._ends.setdefault(delivery, asyncio.get_running_loop().create_future())
        except TimeoutError as error:
            raise BenchError(f"the run of {delivery} has not ended within {WITHIN:g} s") from error
        del self._ends[delivery]

    async def _told(self, msg: Msg) -> None:
        verb = msg.subject.rpartition(".")[2]
        if verb == "started":
            return
        told = msgspec.json.decode(msg.data, type=_Told)
        # It may be told before its sender has read the answer.
        end = self._ends.setdefault(told.correlationid, asyncio.get_running_loop().create_future())
        if end.done():
            return
        if verb == "succeeded":
            self.ended += 1
            end.set_result(None)
        else:
            end.set_exception(BenchError(f"a run of a workflow that does nothing {verb}: {msg.data.decode()}"))


async def floor(client: Client, depth: int, count: int) -> list[float]:
    """Return, `count` times, the seconds that `depth` durable publishes take, each sent when the last one is on disk."""
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        for _ in range(depth):
            answer = await client.request(SUBJECT, BARE, timeout=WITHIN, headers={"Nats-Msg-Id": secrets.token_hex(16)})
            if b'"error"' in answer.data:
                raise BenchError(f"the broker refused a bare publish: {answer.data.decode()}")
        taken.append(time.perf_counter() - began)
    return taken
