"""`millrace rebuild --from archive`: lost streams come back as they were, and nothing is worked on again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, cast

import asyncpg
import msgspec
import pytest
from nats.aio.client import Client

from deploy.errors import StartError
from deploy.positions import administrator
from deploy.prepare import prepare_broker
from deploy.rebuild import derived, lost
from deploy.rebuild.display import Display
from deploy.rebuild.parts import open_parts, replay
from deploy.rebuild.refill import Refill
from deploy.stores import Stores
from shared import aggregate
from shared.blobs import Blobs
from shared.bus import Bus
from shared.envelope import new_id, rfc3339, utc_now
from shared.messages import (
    FileChanged,
    Message,
    RunRequested,
    RunStarted,
    RunSucceeded,
    RunUsage,
    RunWaiting,
    SecretChanged,
    SecretRemoved,
    WorkflowChanged,
    WorkflowRemoved,
)
from shared.messages.log import Logged
from shared.ordered_reader import OrderedReader
from shared.projection import incarnation_of
from shared.pull import api_request
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


WORKFLOW = WorkflowChanged(
    key="k", name="w", version="v", module="m", function="f", path="w.py", line=1, doc="", input_schema={}, timeout=60.0, retries=0
)


async def test_registries_and_timers_are_made_of_the_catalog_and_of_what_waits(place: Place) -> None:
    until = rfc3339(utc_now() + timedelta(hours=1))
    async with bus_of(place, "executor") as bus, opened(place) as (admin, connection):
        await prepare_broker(place.nats_url("admin"))
        await bus.publish(bus.seal(WORKFLOW, org="acme"))
        await bus.publish(bus.seal(msgspec.structs.replace(WORKFLOW, key="gone", name="gone"), org="acme"))
        await bus.publish(bus.seal(WorkflowRemoved(key="gone", name="gone"), org="acme"))
        # Of bytes that are no message no entry is made, and none of the others is held up.
        await admin.jetstream().publish("workflow.bad.changed", b"?")
        run = await story(bus, ends=False)
        waiting = bus.seal(RunWaiting(run=run, attempt=1, blocked_on="time", until=until), org="acme")
        last = await aggregate.last(admin, "run", run)
        assert last is not None
        await aggregate.append(bus.client, bus.journal, waiting, last.sequence)
        await caught_up(place, admin, connection)
        assert await derived.timers(admin, connection) == 1
        await caught_up(place, admin, connection)
        before = await entries(admin)
        assert before.keys() == {"k", "gone"}
        await lose(admin, "KV_workflows", "TIMERS")
        refill = Refill(admin, connection, Display())
        assert (await refill.run(), refill.timers_lost) == ({}, True)
        await prepare_broker(place.nats_url("admin"))
        async with open_parts(cast("Stores", Addresses(place)), PROJECTING) as parts:
            for _ in range(2):
                assert await derived.registries(parts, admin, connection) == 4
                assert await entries(admin) == before
        assert await derived.timers(admin, connection) == 1
        found = await admin.jetstream().get_last_msg("TIMERS", f"timer.{run}.set.executor")
        assert (found.headers or {})["Nats-Schedule"] == f"@at {until}"
        # The archive begins anew with the stream, and takes nothing for lost.
        await caught_up(place, admin, connection)
        assert await connection.fetch("SELECT * FROM logs.gap") == []
        assert await connection.fetchval("SELECT count(*) FROM logs.message WHERE stream = 'TIMERS'") == 2


async def entries(admin: Client) -> dict[str, bytes | None]:
    kv = await admin.jetstream().key_value("workflows")
    return {key: (await kv.get(key)).value for key in await kv.keys()}


async def test_what_nothing_brings_back_is_named_and_counted(place: Place) -> None:
    async with bus_of(place, "executor") as bus, bus_of(place, "oauth") as oauth, opened(place) as (admin, connection):
        await prepare_broker(place.nats_url("admin"))
        blob = await Blobs(bus.client, "workspace").put(parts_of(b"there"))
        for name, sha256 in (("there.py", blob.sha256), ("lost.py", "0" * 64)):
            changed = FileChanged(key=name.partition(".")[0], path=name, sha256=sha256, size=5, actor="t")
            await bus.publish(bus.seal(changed, org="acme"))
        run = await story(bus, ends=False)
        last = await aggregate.last(admin, "run", run)
        assert last is not None
        ended = RunSucceeded(run=run, attempt=1, result=None, result_ref="1" * 64, duration_ms=1.0, usage=RunUsage())
        await aggregate.append(bus.client, bus.journal, bus.seal(ended, org="acme"), last.sequence)
        for number in range(2):
            await oauth.publish(oauth.seal(SecretChanged(secret=f"s{number}", name=f"n{number}", version=1, actor="t"), org="acme"))
        await oauth.publish(oauth.seal(SecretRemoved(secret="s1", name="n1", actor="t"), org="acme"))
        await caught_up(place, admin, connection)
        assert await lost.secrets(admin, connection) == ["secret n0 of acme"]
        missing = await lost.objects(admin, connection)
        assert missing == {"workspace": ["file lost.py of acme"], "results": [f"result of run {run}"]}
    names = [f"file {number}" for number in range(25)]
    assert lost.told("x", names, "Help.").endswith("file 19, and 5 more). Help.")


async def parts_of(content: bytes) -> AsyncIterator[bytes]:
    yield content
