"""The archive keeps every message of every stream exactly, whatever the message is, and repeats change nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest

from services.logs import partitions, projections, store
from services.logs.copying import copy
from services.logs.domain import UNDECODABLE, Row, StreamPosition, row_of
from services.logs.lines import split
from services.logs.partitions import DAYS_AHEAD, make, name_of
from shared.bus import Bus
from shared.checkpoint import CheckpointMoved
from shared.db import open_engine
from shared.envelope import new_id, utc_now
from shared.errors import Unavailable
from shared.health import Health
from shared.messages import LineChunk, Lines, Logged, RunRequested
from shared.projection import Projection, incarnation_of
from shared.pull import Delivered
from shared.salvage import Tally
from tests.support.inside import bus_of, eventually, running
from tests.support.servers import Place

NOW = datetime(2026, 3, 10, tzinfo=UTC)


@asynccontextmanager
async def database(place: Place) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(place.database_url("logs"))
    try:
        yield connection
    finally:
        await connection.close()


async def archived(connection: Any, count: int, where: str = "true") -> list[Any]:
    async def enough() -> list[Any] | None:
        rows = await connection.fetch(f"SELECT * FROM message WHERE {where} ORDER BY stream, seq")
        return rows if len(rows) >= count else None

    rows = await eventually(enough)
    assert isinstance(rows, list)
    assert len(rows) == count
    return rows


def requested(run: str, workflow: str = "w") -> RunRequested:
    return RunRequested(run=run, workflow=workflow, version="v", input={"b": 1, "a": 2}, requested_by="test", timeout=60.0)


async def test_every_stream_is_archived_to_the_byte(place: Place) -> None:
    async with running(place, "logs"), bus_of(place, "executor") as bus, database(place) as connection:
        run = new_id()
        creation = bus.seal(requested(run), org="acme")
        chunk = bus.seal(
            LineChunk(run=run, workflow="w", attempt=1, chunk=1, lines=[Lines(time="t", level="error", message="boom\x00")]),
            org="acme",
            cause=creation.envelope,
        )
        logged = bus.seal(Logged(service="executor", level="info", event="x.y", fields={}), org="global")
        for sealed in (creation, chunk, logged):
            await bus.publish(sealed)
        rows = await archived(connection, 3, "line <= 0")
        assert [row["stream"] for row in rows] == ["LINES", "LOGS", "RUNS"]
        assert {row["document"] for row in rows} == {creation.document, chunk.document, logged.document}
        [line] = await archived(connection, 1, "line > 0")
        first = rows[2]
        assert first["incarnation"] == await incarnation_of(bus.client, "RUNS")
        assert (first["id"], first["org"], first["run"], first["type"]) == (creation.envelope.id, "acme", run, "run.requested")
        assert (line["level"], line["message"], line["causation_id"]) == ("error", "boom\ufffd", creation.envelope.id)
        assert line["correlation_id"] == first["correlation_id"]
        assert first["said_at"] == creation.envelope.time
        assert abs(first["time"] - creation.envelope.time) < timedelta(minutes=1)


async def test_what_is_no_envelope_is_archived_and_stops_nothing(place: Place) -> None:
    async with running(place, "logs") as runtime, bus_of(place, "admin") as bus, database(place) as connection:
        for document in (b"\xff\x00 no json", b"", b'{"id":1}'):
            await bus.client.jetstream().publish("run.r1.started", document)
        await bus.publish(bus.seal(requested(new_id()), org="acme"))
        rows = await archived(connection, 4)
        assert [row["type"] for row in rows] == [UNDECODABLE] * 3 + ["run.requested"]
        assert rows[0]["document"] == b"\xff\x00 no json"
        assert runtime.health.ready, runtime.health.document()


async def test_absurd_messages_are_kept_to_the_byte_and_stop_nothing(place: Place) -> None:
    envelope = {
        "id": "i", "type": "run.requested", "source": "/executor", "subject": "r", "time": "2026-01-02T03:04:05Z", "org": "acme",
        "correlationid": "c", "data": {"workflow": "seen"},
    }  # fmt: skip
    absurd: list[dict[str, Any]] = [
        {"time": "0001-01-01T00:00:00+14:00"},
        {"time": "9999-12-31T23:59:59-14:00"},
        {"time": "2026-01-02T03:04:05"},
        {"id": "\0", "org": "a\0", "subject": "\ud800", "correlationid": "\0" * 5000},
        {"data": {"n": 10**5000 - 1, "f": 1e308, "a\0b": "\0", "s": "\ud800"}},
        {"type": "x" * 100_000},
        {"subject": "k" * 100_000},
        {"correlationid": "".join(map(chr, range(0x4E00, 0x9000)))},
        {"data": {"words": " ".join(f"w{number}" for number in range(150_000))}},
    ]
    deep = [
        json.dumps(envelope | {"data": 0}).replace('"data": 0', f'"data": {"[" * depth}{"]" * depth}').encode()
        for depth in (90, 500, 900, 50_000)
    ]
    sys.set_int_max_str_digits(0)
    try:
        documents = [*(json.dumps(envelope | one).encode() for one in absurd), *deep, b"", b"\0" * 100]
    finally:
        sys.set_int_max_str_digits(4300)
    async with running(place, "logs") as runtime, bus_of(place, "admin") as bus, database(place) as connection:
        for document in documents:
            await bus.client.jetstream().publish("run.r1.started", document)
        # An empty message with headers such as the broker's own words have.
        await bus.client.jetstream().publish("run.r1.started", b"", headers={"Status": "409"})
        await bus.publish(bus.seal(requested(new_id()), org="acme"))
        rows = await archived(connection, len(documents) + 2)
        assert [row["document"] for row in rows[:-1]] == [*documents, b""]
        assert [row["said_at"] == row["time"] for row in rows[:3]] == [True] * 3
        assert runtime.health.ready, runtime.health.document()


async def test_a_restarted_archive_goes_on_and_a_replay_adds_nothing(place: Place) -> None:
    async with bus_of(place, "executor") as bus, database(place) as connection:
        async with running(place, "logs"):
            for _ in range(5):
                await bus.publish(bus.seal(requested(new_id()), org="acme"))
            before = await archived(connection, 5)
        for _ in range(3):
            await bus.publish(bus.seal(requested(new_id()), org="acme"))
        await connection.execute("UPDATE checkpoint SET last_seq = 0 WHERE stream = 'RUNS'")
        async with running(place, "logs"):
            rows = await archived(connection, 8)
            assert rows[:5] == before


async def test_dropping_all_rows_and_replaying_gives_equal_rows(place: Place) -> None:
    async with bus_of(place, "executor") as bus, database(place) as connection:
        async with running(place, "logs"):
            for _ in range(20):
                await bus.publish(bus.seal(requested(new_id()), org="acme"))
            before = await archived(connection, 20)
        await connection.execute("TRUNCATE message, checkpoint")
        async with running(place, "logs"):
            assert await archived(connection, 20) == before


async def test_two_replicas_archive_each_message_once(place: Place) -> None:
    async with (
        running(place, "logs"),
        running(place, "logs"),
        bus_of(place, "executor") as bus,
        database(place) as connection,
    ):
        await asyncio.gather(*(bus.publish(bus.seal(requested(new_id()), org="acme")) for _ in range(200)))
        await archived(connection, 200)
        held = await connection.fetch("SELECT last_seq FROM checkpoint WHERE stream = 'RUNS'")
        assert [row["last_seq"] for row in held] == [200]


async def test_lost_database_connections_are_waited_out_and_nothing_is_missing(place: Place) -> None:
    async with running(place, "logs") as runtime, bus_of(place, "executor") as bus:
        admin = await asyncpg.connect(place.database_url("admin"))
        for _ in range(5):
            await asyncio.gather(*(bus.publish(bus.seal(requested(new_id()), org="acme")) for _ in range(20)))
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE usename = 'millrace_logs' AND datname = current_database()"
            )
            await asyncio.sleep(0.1)
        await admin.close()
        async with database(place) as connection:
            await archived(connection, 100)

        async def ready() -> bool:
            return runtime.health.ready

        await eventually(ready)


def refused(made: Row) -> Row:
    # What an unforeseen document could do: JSON that jsonb does not take.
    return msgspec.structs.replace(made, data='"\\u0000"')


def raising(made: Row) -> Row:
    raise RuntimeError(f"a bug that {made.seq} meets")


@pytest.mark.parametrize("spoilt", [refused, raising])
async def test_a_row_that_cannot_be_made_or_stored_is_kept_as_bytes_and_its_neighbours_whole(
    place: Place, monkeypatch: pytest.MonkeyPatch, spoilt: Callable[[Row], Row]
) -> None:
    def fragile(where: StreamPosition, document: bytes) -> Row:
        made = row_of(where, document)
        return spoilt(made) if where.seq in {7, 400} else made

    monkeypatch.setattr(projections, "row_of", fragile)
    async with bus_of(place, "executor") as bus, database(place) as connection, writing(place) as (commit, statements, tally):
        document = bus.seal(requested(new_id()), org="acme").document
        batch = [Delivered("run.x.requested.normal", document, seq, utc_now(), {}, 0) for seq in range(1, 501)]
        await commit(batch, 0)
        # Two culprits are found among 500 rows by halving, not by trying each.
        assert sum("INSERT INTO message" in one for one in statements) < 60
        rows = await connection.fetch("SELECT seq, type, document FROM message ORDER BY seq")
        assert len(rows) == 500
        assert [row["seq"] for row in rows if row["type"] == UNDECODABLE] == [7, 400]
        assert {row["document"] for row in rows} == {document}
        assert (tally.salvaged, tally.dead) == ({"archive-runs": 2}, {})


def backlog(document: bytes, first: int, last: int) -> list[Delivered]:
    return [
        Delivered("run.x.requested.normal", document, seq, NOW + timedelta(seconds=seq), {}, 0) for seq in range(first, last + 1)
    ]


async def test_a_backlog_is_copied_and_again_it_changes_nothing(place: Place) -> None:
    async with bus_of(place, "executor") as bus, database(place) as connection:
        document = bus.seal(requested(new_id()), org="acme").document
        async with writing(place) as (commit, statements, _):
            await commit(backlog(document, 1, 150), 0)
            await commit(backlog(document, 151, 400), 150)
            assert not any("INSERT INTO message" in one for one in statements)
            before = await archived(connection, 400)
            # Somebody has moved the checkpoint: what was copied is taken back.
            with pytest.raises(CheckpointMoved):
                await commit(backlog(document, 401, 600), 399)
            assert await archived(connection, 400) == before
        await connection.execute("DELETE FROM checkpoint")
        async with writing(place) as (commit, _, tally):
            await commit(backlog(document, 1, 300), 0)
            # Half of the batch is there already, and then nothing of it.
            await commit(backlog(document, 301, 500), 300)
            await commit(backlog(document, 501, 600), 500)
            assert (await archived(connection, 600))[:400] == before
            assert not tally.salvaged


async def test_rows_that_the_writer_knew_nothing_of_stay_as_they_are(place: Place) -> None:
    async with bus_of(place, "executor") as bus, database(place) as connection, writing(place) as (commit, _, tally):
        document = bus.seal(requested(new_id()), org="acme").document
        await commit(backlog(document, 1, 100), 0)
        there = store.insert([msgspec.structs.replace(row, message="there") for row in rows_of(backlog(document, 200, 200))])
        await there.run(connection)
        await commit(backlog(document, 101, 400), 100)
        rows = await archived(connection, 400)
        assert [row["seq"] for row in rows if row["message"] == "there"] == [200]
        assert not tally.salvaged


async def test_a_connection_that_is_cut_while_a_backlog_is_copied_is_passing_trouble(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bus_of(place, "executor") as bus, database(place) as connection:
        document = bus.seal(requested(new_id()), org="acme").document
        async with writing(place, "archive-logs", "LOGS") as (commit, _, tally):
            backend = await connection.fetchval(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND usename = 'millrace_logs' AND query LIKE 'INSERT INTO checkpoint%'"
            )

            def cutting(where: StreamPosition, document: bytes) -> Row:
                if where.seq == 700:
                    os.kill(backend, signal.SIGTERM)
                return row_of(where, document)

            monkeypatch.setattr(projections, "row_of", cutting)
            with pytest.raises(Unavailable):
                await commit(backlog(document, 1, 2000), 0)
            assert not tally.salvaged
        assert await connection.fetchval("SELECT count(*) FROM message") == 0


def rows_of(batch: list[Delivered]) -> list[Row]:
    return [row_of(StreamPosition("RUNS", "i", one.sequence, one.time, one.subject), one.data) for one in batch]


async def test_copied_rows_are_equal_to_inserted_ones(place: Place) -> None:
    async with bus_of(place, "executor") as bus, database(place) as connection:
        said = [
            Lines(time="2026-01-02T03:04:05Z", level="error", message="Zoë\t\\N 漢字 'a:1' it's", fields={"n": 1.5, "no": None})
        ]
        documents = [
            bus.seal(requested(new_id(), "Straße İ"), org="acme").document,
            bus.seal(LineChunk(run=new_id(), workflow="w", attempt=1, chunk=1, lines=said), org="acme").document,
            bus.seal(
                Logged(service="executor", level="info", event="x.y", fields={"a\\b": "y " * 400, "b": "x" * 300}), org="g"
            ).document,
            b'{"data": "\\ud800"}',
            b"\xff\x00",
            b"",
        ]
        batch = [Delivered("run.x", document, seq, NOW, {}, 0) for seq, document in enumerate(documents, 1)]
        rows = [one for row in rows_of(batch) for one in split(row)]
        await store.insert(rows).run(connection)
        inserted = await archived(connection, len(documents) + 1)
        await connection.execute("TRUNCATE message")
        await copy(rows).run(connection)
        assert await archived(connection, len(documents) + 1) == inserted


@asynccontextmanager
async def writing(place: Place, name: str = "archive-runs", stream: str = "RUNS") -> AsyncIterator[Any]:
    """Give what commits a batch after a checkpoint as the archive of a stream does, the statements that it runs, and its tally."""
    engine = open_engine(place.database_url("logs"), service="logs")
    statements: list[str] = []
    health = Health("logs")
    tally = Tally(health)
    async with bus_of(place, "logs") as bus, database(place) as connection:
        connection.add_query_logger(lambda query: statements.append(query.query))
        await connection.execute(
            "INSERT INTO checkpoint (projection, stream, incarnation, last_seq) VALUES ($1, $2, 'i', 0)", name, stream
        )
        [archive] = [one for one in projections.projected(bus.client) if one.name.startswith("archive") and one.stream == stream]
        made = Projection(
            client=bus.client,
            engine=engine,
            url=place.database_url("logs"),
            service="logs",
            projected=msgspec.structs.replace(archive, name=name),
            health=health,
            tally=tally,
        )

        async def commit(batch: list[Delivered], last: int) -> None:
            await made._commit(batch, "i", last, connection)

        yield commit, statements, tally
    await engine.dispose()


async def test_days_are_made_ahead_and_stray_rows_are_moved_to_theirs(place: Place) -> None:
    engine = open_engine(place.database_url("logs"), service="logs")
    today = datetime(2026, 3, 10, tzinfo=UTC)
    strays = [today - timedelta(days=40, seconds=1), today - timedelta(days=40), today + timedelta(hours=3)]
    async with bus_of(place, "executor") as bus, database(place) as connection:
        document = bus.seal(requested(new_id()), org="acme").document
        rows = [row_of(StreamPosition("RUNS", "inc", n, time, "s"), document) for n, time in enumerate(strays, 1)]
        await connection.execute(store.insert(rows).sql, *store.insert(rows).values)
        before = await connection.fetch("SELECT * FROM message ORDER BY seq")
        assert await connection.fetchval("SELECT count(*) FROM message_default") == 3
        for _ in range(2):
            await make(engine, today.date())
        assert await connection.fetchval("SELECT count(*) FROM message_default") == 0
        assert await connection.fetch("SELECT * FROM message ORDER BY seq") == before
        names = {row["relname"] for row in await connection.fetch(
            "SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = 'message'::regclass"
        )}  # fmt: skip
        days = [today.date() + timedelta(days=ahead) for ahead in range(-1, DAYS_AHEAD + 1)]
        assert names == {"message_default", "message_20260129", "message_20260128", *map(name_of, days)}
        await connection.execute(store.insert(rows).sql, *store.insert(rows).values)
        assert await connection.fetchval("SELECT count(*) FROM message") == 3
    await engine.dispose()


async def test_partitions_are_attached_under_a_writer_without_losing_or_mistaking_a_row(place: Place) -> None:
    engine = open_engine(place.database_url("logs"), service="logs", pool_size=12)
    start = datetime(2026, 5, 1, 12, tzinfo=UTC)
    async with bus_of(place, "executor") as bus, database(place) as connection:
        document = bus.seal(requested(new_id()), org="acme").document

        async def write(day: int) -> None:
            async with writing(place, f"of day {day}") as (commit, _, tally):
                last = 0
                for n in range(20):
                    seq = day * 1000 + n * 10
                    time = start + timedelta(days=day)
                    batch = [Delivered("s", document, seq + more, time, {}, 0) for more in range(10)]
                    await commit(batch, last)
                    last = batch[-1].sequence
                assert not tally.salvaged

        async def attach() -> None:
            for _ in range(12):
                await make(engine, start.date())

        await asyncio.gather(attach(), *(write(day) for day in range(6, 14)))
        rows = await connection.fetch("SELECT type, count(*) FROM message GROUP BY type")
        assert [tuple(row) for row in rows] == [("run.requested", 8 * 20 * 10)]
    await engine.dispose()


async def test_partitions_are_made_at_start(place: Place) -> None:
    async with running(place, "logs"), database(place) as connection:

        async def made() -> bool:
            found = await connection.fetchval("SELECT to_regclass($1)", partitions.name_of(utc_now().date()))
            return found is not None

        await eventually(made)


async def test_what_is_logged_about_archiving_is_not_archived(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    async with running(place, "logs") as runtime, database(place) as connection, bus_of(place, "admin") as bus:
        await say(bus, "run.r1.started", b"no envelope")
        await archived(connection, 1)
        runtime.sink(None, "error", {"event": "archive.row_refused"})
        runtime.sink(None, "warning", {"event": "projection.interrupted"})
        runtime.sink(None, "warning", {"event": "something.else"})
        rows = await archived(connection, 1, "stream = 'LOGS'")
        assert rows[0]["message"] == "something.else"
    capsys.readouterr()


async def say(bus: Bus, subject: str, document: bytes) -> None:
    await bus.client.jetstream().publish(subject, document)
