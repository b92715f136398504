"""The ordered reader over a real broker: one pull at a time, whatever happens to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client

from shared import ordered_reader, pull
from shared.client import connect, write
from shared.ordered_reader import OrderedReader
from tests.support.inside import eventually
from tests.support.pausing import paused
from tests.support.servers import Place

STREAM = "THINGS"


@contextlib.asynccontextmanager
async def client_of(place: Place) -> AsyncIterator[Client]:
    """Connect as an operator for the block, with a stream of the test's own."""
    client = await connect(place.nats_url("admin"), reconnect_time_wait=0.1, max_reconnect_attempts=-1)
    try:
        await client.jetstream(timeout=10).add_stream(name=STREAM, subjects=["things.*"], max_msg_size=-1)
        yield client
    finally:
        await client.close()


async def published(client: Client, count: int, size: int = 100) -> None:
    """Store `count` messages, as many at a time as the client likes."""
    for number in range(count - 1):
        await client.publish(f"things.{number}", bytes(size))
    await client.jetstream(timeout=20).publish("things.last", bytes(size))


async def waiting_pulls(client: Client) -> list[int]:
    """Return how many pulls wait at the server, by consumer."""
    return [info.num_waiting or 0 for info in await client.jetstream(timeout=10).consumers_info(STREAM)]


async def one_waits(client: Client) -> None:
    """Wait until one pull waits at the server, which the reader sends beside what it hands out."""

    async def waits() -> bool:
        return await waiting_pulls(client) == [1]

    await eventually(waits)


@contextlib.asynccontextmanager
async def reading(client: Client, seen: list[int], *, batch: int = 500, pause: float = 0) -> AsyncIterator[asyncio.Event]:
    """Read the stream for the block into `seen`; the event is set at every batch."""
    moved = asyncio.Event()

    async def read() -> None:
        batches = OrderedReader(client, STREAM, batch=batch).batches()
        async with contextlib.aclosing(batches):
            async for one in batches:
                seen.extend(delivered.sequence for delivered in one)
                moved.set()
                await asyncio.sleep(pause)

    task = asyncio.create_task(read())
    try:
        yield moved
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def noted_pulls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the addresses of the pulls that are sent from now on."""
    addresses: list[str] = []
    real = pull.pull

    async def noted(client: Client, stream: str, consumer: str, inbox: str, batch: int) -> None:
        addresses.append(inbox)
        await real(client, stream, consumer, inbox, batch)

    monkeypatch.setattr(ordered_reader, "pull", noted)
    return addresses


def beating(monkeypatch: pytest.MonkeyPatch, every: float) -> None:
    """Have the server send heartbeats so often, and the reader expect them."""
    for module in (pull, ordered_reader):
        monkeypatch.setattr(module, "HEARTBEAT", every)


async def until(seen: list[int], moved: asyncio.Event, count: int, within: float = 30) -> None:
    """Wait until the reader has handed out so many messages."""
    async with asyncio.timeout(within):
        while len(seen) < count:
            moved.clear()
            await moved.wait()


@pytest.mark.parametrize("batch", [2, 40])
async def test_a_reader_keeps_one_pull_at_the_server_under_load_and_idle(place: Place, batch: int) -> None:
    async with client_of(place) as writer, client_of(place) as client:
        seen: list[int] = []
        counts: list[int] = []
        async with reading(client, seen, batch=batch) as moved:
            for round_ in range(1, 30):
                await published(writer, 33)
                await until(seen, moved, round_ * 33)
                counts += await waiting_pulls(writer)
            await one_waits(writer)
        assert max(counts) == 1
        assert seen == list(range(1, 29 * 33 + 1))


async def test_a_reader_that_takes_its_time_has_the_next_batch_delivered_meanwhile(place: Place) -> None:
    async with client_of(place) as client:
        await published(client, 100)
        batches = OrderedReader(client, STREAM, batch=10).batches()
        async with contextlib.aclosing(batches):
            first = await anext(batches)
            while len(first) < 10:
                first += await anext(batches)

            async def delivered() -> bool:
                (info,) = await client.jetstream().consumers_info(STREAM)
                return info.delivered is not None and info.delivered.consumer_seq == 20

            # Nobody asks for the second ten, and they are here.
            assert await eventually(delivered)


async def test_a_pull_that_expires_is_followed_by_one_that_delivers(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "EXPIRES", 1.5)
    beating(monkeypatch, 0.7)
    addresses = noted_pulls(monkeypatch)
    async with client_of(place) as client:
        seen: list[int] = []
        async with reading(client, seen) as moved:
            await published(client, 3)
            await until(seen, moved, 3)
            (consumer,) = await client.jetstream().consumers_info(STREAM)

            async def expired() -> bool:
                return len(addresses) >= 3

            await eventually(expired)
            await published(client, 3)
            await until(seen, moved, 6)
            assert [info.name for info in await client.jetstream().consumers_info(STREAM)] == [consumer.name]
        assert seen == [1, 2, 3, 4, 5, 6]


async def test_a_pull_whose_bytes_are_used_up_is_followed_by_the_next(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "PULL_BYTES", 100_000)
    beating(monkeypatch, 9.0)
    async with client_of(place) as client:
        await published(client, 40, size=30_000)
        seen: list[int] = []
        async with reading(client, seen) as moved:
            await until(seen, moved, 40, within=pull.HEARTBEAT)
            await one_waits(client)
        assert seen == list(range(1, 41))


async def test_a_broker_killed_in_the_midst_of_pulls_costs_a_reader_nothing_but_time(place: Place) -> None:
    async with client_of(place) as writer, client_of(place) as client:
        await published(writer, 4_000)
        seen: list[int] = []
        async with reading(client, seen, batch=50) as moved:
            await until(seen, moved, 200)
            os.kill(place.broker_pid, signal.SIGKILL)
            await until(seen, moved, 4_000, within=60)
            await published(writer, 1)
            await until(seen, moved, 4_001)
            await one_waits(writer)
        assert seen == list(range(1, 4_002))


async def test_a_broker_that_stands_still_for_longer_than_its_heartbeats_is_read_on_when_it_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    beating(monkeypatch, 0.2)
    async with client_of(place) as client:
        await published(client, 2_000)
        seen: list[int] = []
        async with reading(client, seen, batch=50) as moved:
            await until(seen, moved, 500)
            async with paused(place.broker_pid):
                await asyncio.sleep(1)
            await until(seen, moved, 2_000)
        assert seen == list(range(1, 2_001))


async def test_the_end_of_a_used_up_pull_that_is_reported_late_is_not_taken_for_that_of_the_next(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    beating(monkeypatch, 9.0)  # no pull is taken for lost
    addresses = noted_pulls(monkeypatch)
    async with client_of(place) as client:
        seen: list[int] = []
        async with reading(client, seen, batch=2) as moved:
            await published(client, 2)
            await until(seen, moved, 2)
            head = b"NATS/1.0 409 Batch Completed\r\n\r\n"
            await write(client, b"HPUB %b %d %d\r\n%b\r\n" % (addresses[0].encode(), len(head), len(head), head))
            await published(client, 1)
            await until(seen, moved, 3)
            await one_waits(client)
        assert len(addresses) == len(set(addresses)) == 2
