"""`millrace rebuild --from archive`: lost streams come back as they were, and nothing is worked on again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncpg
import pytest
from nats.aio.client import Client

from deploy.errors import StartError
from deploy.positions import administrator
from deploy.prepare import prepare_broker
from deploy.rebuild.display import Display
from deploy.rebuild.parts import open_parts, replay
from deploy.rebuild.refill import Refill
from deploy.stores import Stores
from shared import aggregate
from shared.bus import Bus
from shared.envelope import new_id
from shared.messages import Message, RunRequested, RunStarted, RunSucceeded, RunUsage
from shared.messages.log import Logged
from shared.projection import incarnation_of
from shared.pull import OrderedReader, api_request
from shared.streams import STREAMS
from tests.support.inside import bus_of
from tests.support.servers import Place

LOST = ("RUNS", "LOGS")
PROJECTING = ("executor", "logs")


class KilledError(Exception):
    """The end of a refill when a part of a stream is there."""


class Killing(Display):
    """Ends a refill when a part of a stream is there."""

    def progress(self, name: str, done: int, total: int) -> None:
        """Take the first part of a stream for the end."""
        if done < total:
            raise KilledError(name)


class Addresses:
    """The addresses of a place, as a rebuild asks for them."""

    def __init__(self, place: Place) -> None:
        self.nats_url_of, self.database_url_of = place.nats_url, place.database_url


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[tuple[Client, asyncpg.Connection[Any]]]:
    connection = await asyncpg.connect(place.database_url("admin"))
    try:
        async with administrator(place.nats_url("admin")) as admin:
            yield admin, connection
    finally:
        await connection.close()


async def caught_up(place: Place, admin: Client, connection: Any) -> None:
    async with open_parts(cast("Stores", Addresses(place)), PROJECTING) as parts:
        await replay(parts, admin, connection, lambda *_: None)


async def content(client: Client, stream: str) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    info = await api_request(client, f"$JS.API.STREAM.INFO.{stream}", None)
    batches = OrderedReader(client, stream).batches()
    while len(found) < info["state"]["messages"]:
        found += [(one.sequence, one.subject, one.data, one.time) for one in await anext(batches)]
    await batches.aclose()
    return found


async def story(bus: Bus, *, ends: bool) -> str:
    """Let a run be asked for and begun, and end."""
    run = new_id()
    asked = bus.seal(RunRequested(run=run, workflow="w", version="v", requested_by="t", timeout=60.0), org="acme")
    last = await bus.publish(asked)
    told: list[Message] = [RunStarted(run=run, attempt=1, executor="e", tier="A")]
    if ends:
        told.append(RunSucceeded(run=run, attempt=1, result=None, duration_ms=1.0, usage=RunUsage()))
    for message in told:
        sealed = bus.seal(message, org="acme", cause=asked.envelope)
        last = (await aggregate.append(bus.client, bus.journal, sealed, last)).sequence
    return run


async def lose(admin: Client, *streams: str) -> None:
    for name in streams:
        await api_request(admin, f"$JS.API.STREAM.DELETE.{name}", None)


@asynccontextmanager
async def lived(place: Place) -> AsyncIterator[tuple[Client, asyncpg.Connection[Any], list[str]]]:
    """Give a place in which runs were worked on, one of them not to its end, one purged, and all is archived."""
    async with bus_of(place, "executor") as bus:
        await prepare_broker(place.nats_url("admin"))
        runs = [await story(bus, ends=number != 2) for number in range(5)]
        for number in range(3):
            await bus.publish(bus.seal(Logged(service="executor", level="info", event=f"x.{number}", fields={}), org="global"))
        async with opened(place) as (admin, connection):
            await caught_up(place, admin, connection)
            await connection.execute("UPDATE executor.run SET on_bus = 'gone' WHERE id = $1", runs[1])
            await api_request(admin, "$JS.API.STREAM.PURGE.RUNS", {"filter": f"run.{runs[1]}.>"})
            yield admin, connection, runs


async def test_lost_streams_come_back_with_their_sequences_and_times_and_the_archive_stays_as_it_was(place: Place) -> None:
    async with lived(place) as (admin, connection, runs):
        before = {name: (await incarnation_of(admin, name), await content(admin, name)) for name in LOST}
        rows = await connection.fetch("SELECT * FROM logs.message ORDER BY stream, seq, time")
        await lose(admin, *LOST)
        refill = Refill(admin, connection, Display())
        done = await refill.run()
        assert (refill.refused, set(done)) == ([], set(LOST))
        assert {name: (await incarnation_of(admin, name), await content(admin, name)) for name in LOST} == before
        # Work begins behind all of it, but for the one run that never ended.
        info = await api_request(admin, "$JS.API.CONSUMER.INFO.RUNS.executor-runs-normal", None)
        assert info["num_pending"] == 0
        await prepare_broker(place.nats_url("admin"))
        await caught_up(place, admin, connection)
        assert await refill.offer(done) == 1
        last = await aggregate.last(admin, "run", runs[2])
        assert last is not None
        assert last.envelope.type == "run.resumed"
        await caught_up(place, admin, connection)
        assert await refill.offer(done) == 0
        assert (await api_request(admin, "$JS.API.CONSUMER.INFO.RUNS.executor-runs-normal", None))["num_pending"] == 1
        now = await connection.fetch("SELECT * FROM logs.message WHERE id <> $1 ORDER BY stream, seq, time", last.envelope.id)
        assert now == rows
        # Made anew from the bus, too, rows have the time of the first storing.
        await connection.execute("DELETE FROM logs.message WHERE stream = 'RUNS' AND run <> $1", runs[1])
        await connection.execute("DELETE FROM logs.checkpoint WHERE stream = 'RUNS'")
        await caught_up(place, admin, connection)
        again = await connection.fetch("SELECT * FROM logs.message WHERE id <> $1 ORDER BY stream, seq, time", last.envelope.id)
        assert again == rows


async def test_a_refill_that_was_cut_short_goes_on_and_nothing_starts_before(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with lived(place) as (admin, connection, _):
        before = await content(admin, "RUNS")
        await lose(admin, "RUNS")
        monkeypatch.setattr("deploy.rebuild.refill.MOST", 3)
        with pytest.raises(KilledError):
            await Refill(admin, connection, Killing()).run()
    async with opened(place) as (admin, connection):
        with pytest.raises(StartError, match="RUNS has been refilled in part only"):
            await prepare_broker(place.nats_url("admin"))
        await Refill(admin, connection, Display()).run()
        assert await content(admin, "RUNS") == before
        await prepare_broker(place.nats_url("admin"))


async def test_a_stream_with_other_content_is_left_alone_and_one_that_is_well_is_not_touched(place: Place) -> None:
    async with lived(place) as (admin, connection, _), bus_of(place, "executor") as bus:
        await lose(admin, "LOGS")
        await prepare_broker(place.nats_url("admin"))
        await bus.publish(bus.seal(Logged(service="executor", level="info", event="new", fields={}), org="global"))
        before = {stream.name: await content(admin, stream.name) for stream in STREAMS}
        refill = Refill(admin, connection, Display())
        assert await refill.run() == {}
        assert refill.refused == ["LOGS was left alone: it was made anew and has 1 other messages by now."]
        assert {stream.name: await content(admin, stream.name) for stream in STREAMS} == before


@pytest.mark.parametrize(
    "said",
    [
        *["i {other} 2001-01-01T00:00:00Z", "i {seq} yesterday", "i {seq} 2001-01-01T00:00:00"],
        *["i {seq} 0001-01-01T00:00:00Z", "{seq}", ""],
    ],
)
async def test_an_origin_that_is_none_leaves_a_message_the_time_of_its_stream(place: Place, said: str) -> None:
    async with bus_of(place, "executor") as bus, bus_of(place, "logs") as reader, administrator(place.nats_url("admin")) as admin:
        document = bus.seal(Logged(service="executor", level="info", event="x", fields={}), org="global").document
        headers = {"Millrace-Origin": said.format(seq=1, other=2)}
        await admin.jetstream().publish("log.executor.info", document, headers=headers)
        [(sequence, _, _, time)] = await content(reader.client, "LOGS")
        assert sequence == 1
        assert time.year > 2001


async def test_a_broker_that_lost_everything_has_its_streams_again(place: Place) -> None:
    async with lived(place) as (admin, connection, _):
        before = {name: await content(admin, name) for name in LOST}
        every = (await api_request(admin, "$JS.API.STREAM.NAMES", {}))["streams"]
        await lose(admin, *every)
        refill = Refill(admin, connection, Display())
        done = await refill.run()
        await prepare_broker(place.nats_url("admin"))
        assert {name: await content(admin, name) for name in LOST} == before
        await caught_up(place, admin, connection)
        assert (await refill.offer(done), refill.refused) == (1, [])
        assert set((await api_request(admin, "$JS.API.STREAM.NAMES", {}))["streams"]) == set(every)
