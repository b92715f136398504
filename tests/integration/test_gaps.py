"""Messages that the archive never got are found by its writer, recorded, and told by the verification."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import msgspec
import pytest

from deploy.audit.verify import Stream, recorded
from services.logs import projections
from services.logs.digests import keeping
from services.logs.digests.keeping import Digests, sealers
from services.logs.digests.notes import verifier_key
from services.logs.gaps import GapFinder, reason_of
from shared.bus import Bus
from shared.db import open_engine
from shared.envelope import new_id, utc_now
from shared.errors import Unavailable
from shared.health import Health
from shared.messages import LineChunk, Lines
from shared.pull import Delivered, api_request
from shared.streams import STREAMS
from tests.integration.test_audit_verify import KEYS, Sealed
from tests.support.inside import bus_of, eventually, running
from tests.support.servers import Place

NOW = datetime(2026, 3, 10, tzinfo=UTC)
BY_NAME = {stream.name: stream for stream in STREAMS}


@pytest.mark.parametrize(
    ("stream", "before", "reason"),
    [
        ("RUNS", NOW, "purged"),
        ("TIMERS", NOW, "purged"),
        ("LINES", NOW - timedelta(days=4), "aged"),
        ("LINES", None, "aged"),
        ("LINES", NOW - timedelta(days=2), "lost"),
        ("CATALOG", NOW - timedelta(days=400), "lost"),
        ("CATALOG", None, "lost"),
    ],
)
def test_why_messages_are_gone_follows_from_what_their_stream_lets_go(stream: str, before: datetime | None, reason: str) -> None:
    assert reason_of(BY_NAME[stream], before, NOW) == reason


async def lines(place: Place, count: int) -> None:
    async with bus_of(place, "executor") as bus:
        for number in range(count):
            said = [Lines(time="2026-01-02T03:04:05Z", level="info", message=f"line {number}")]
            await bus.publish(bus.seal(LineChunk(run=new_id(), workflow="w", attempt=1, chunk=1, lines=said), org="acme"))


async def forget(bus: Bus, stream: str, *sequences: int) -> None:
    for sequence in sequences:
        await api_request(bus.client, f"$JS.API.STREAM.MSG.DELETE.{stream}", {"seq": sequence})


async def lost(place: Place, runtime: Any, own: Any) -> None:
    async def told() -> bool:
        fact = runtime.health.document()["gaps"]
        audited = await own.fetchval("SELECT count(*) FROM message WHERE type = 'audit.gap'")
        return bool(fact == {"messages": {"LINES": 3}, "lost": {"LINES": 3}} and audited == 2)

    await eventually(told)


async def test_lost_messages_are_told_and_the_verification_knows_of_them(
    place: Place, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Sealed is here, with keys of the test's own.
    monkeypatch.setattr(keeping, "FIRST", 60.0)
    await lines(place, 8)
    async with bus_of(place, "admin") as admin:
        await forget(admin, "LINES", 3, 6, 7)
    own = await asyncpg.connect(place.database_url("logs"))
    async with running(place, "logs") as runtime:
        await lost(place, runtime, own)
    found = await own.fetch("SELECT stream, first_seq, last_seq, reason, recorded FROM gap ORDER BY first_seq")
    assert [tuple(row) for row in found] == [("LINES", 3, 3, "lost", True), ("LINES", 6, 7, "lost", True)]
    records = [
        json.loads(row["document"])["data"] for row in await own.fetch("SELECT document FROM message WHERE type = 'audit.gap'")
    ]
    assert {(one["target"], one["outcome"]) for one in records} == {("LINES", "lost")}
    assert sorted(span for one in records for span in one["detail"]["ranges"]) == [[3, 3], [6, 7]]
    engine = open_engine(place.database_url("logs"), service="logs", pool_size=2)
    async with bus_of(place, "logs") as bus:
        digests = Digests(sealers(bus.client, engine, KEYS, [(data / "copy").as_uri()]), Health("logs"))
        await digests.seal()
        archive = Sealed(SimpleNamespace(engine=engine, digests=digests, now=utc_now), None, data / "copy")

        async def verified(folder: Path, stream: str = "LINES") -> list[tuple[str, int | None]]:
            export = await archive.export(folder)
            keys = [verifier_key(key) for key in export.keys]
            records = recorded(export, keys=keys)
            return [(one.kind, one.seq) for one in Stream(stream, export, keys=keys, records=records).findings()]

        assert await verified(data / "told") == []
        # A record that is not as it was sealed counts for nothing.
        await own.execute("UPDATE message SET document = document || ' ' WHERE type = 'audit.gap'")
        assert await verified(data / "changed") == [("missing before it was sealed", 3), ("missing before it was sealed", 6)]
        await own.execute("DELETE FROM message WHERE type = 'audit.gap'")
        assert await verified(data / "untold") == [("missing before it was sealed", 3), ("missing before it was sealed", 6)]
        # It explains what was never sealed, and nothing that was.
        await own.execute("DELETE FROM message WHERE stream = 'LINES' AND seq = 5")
        assert ("missing", 5) in await verified(data / "deleted")
    await engine.dispose()
    await own.close()


async def test_a_message_that_the_reader_passed_over_is_read_again(place: Place) -> None:
    await lines(place, 3)
    own = await asyncpg.connect(place.database_url("logs"))
    async with bus_of(place, "logs") as bus:
        finder = GapFinder("LINES", bus.client)
        batch = [Delivered("line.x.logged", b"{}", seq, utc_now(), {}, 0) for seq in (1, 3)]
        with pytest.raises(Unavailable, match="passed over 2"):
            await finder.before(batch, "i", own)
        assert await finder.before(batch[:1], "i", own) == []
    await own.close()


async def test_what_is_archived_already_is_no_gap_where_the_rest_is_read_anew(place: Place) -> None:
    await lines(place, 6)
    own = await asyncpg.connect(place.database_url("logs"))

    async def archived(count: int) -> None:
        async def there() -> bool:
            last = await own.fetchval("SELECT last_seq FROM checkpoint WHERE projection = 'archive-lines'")
            return bool(last == count)

        await eventually(there)

    async with running(place, "logs"):
        await archived(6)
    async with bus_of(place, "admin") as admin:
        await forget(admin, "LINES", 1, 2, 3)
    # As a rebuild does: the rows of what the stream still has, and the checkpoint.
    await own.execute("DELETE FROM message WHERE stream = 'LINES' AND seq > 3")
    await own.execute("DELETE FROM checkpoint WHERE projection = 'archive-lines'")
    async with running(place, "logs"):
        await archived(6)
    assert await own.fetchval("SELECT count(*) FROM gap") == 0
    assert await own.fetchval("SELECT count(DISTINCT seq) FROM message WHERE stream = 'LINES'") == 6
    await own.close()


async def test_a_gap_before_a_message_that_is_refused_is_found(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    made = projections.row_of

    def fragile(position: Any, document: bytes) -> Any:
        row = made(position, document)
        return msgspec.structs.replace(row, data='"\\u0000"') if row.seq == 3 else row

    await lines(place, 4)
    async with bus_of(place, "admin") as admin:
        await forget(admin, "LINES", 2)
    monkeypatch.setattr(projections, "row_of", fragile)
    own = await asyncpg.connect(place.database_url("logs"))
    async with running(place, "logs"):

        async def there() -> bool:
            return bool(await own.fetchval("SELECT last_seq FROM checkpoint WHERE projection = 'archive-lines'") == 4)

        await eventually(there)
    assert [tuple(row) for row in await own.fetch("SELECT first_seq, last_seq FROM gap")] == [(2, 2)]
    assert await own.fetchval("SELECT array_agg(DISTINCT seq ORDER BY seq) FROM message WHERE stream = 'LINES'") == [1, 3, 4]
    await own.close()


async def test_a_full_disk_is_told_and_archiving_goes_on_when_there_is_room(place: Place) -> None:
    admin = await asyncpg.connect(place.database_url("admin"), server_settings={"search_path": "logs"})
    # The error that Postgres itself raises where it cannot extend a file.
    await admin.execute(
        """
        CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;
        CREATE TRIGGER full_disk BEFORE INSERT ON message FOR EACH ROW EXECUTE FUNCTION full_disk()
        """
    )
    async with running(place, "logs") as runtime:
        await lines(place, 3)

        async def told() -> bool:
            parts = runtime.health.document()["parts"]
            return "disk of the database is full" in str(parts.get("projection archive-lines", {}).get("detail"))

        await eventually(told)
        assert not runtime.health.ready
        assert await admin.fetchval("SELECT count(*) FROM message") == 0
        # To take the trigger away would lock the table against its writer.
        await admin.execute(
            "CREATE OR REPLACE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$"
        )

        async def archived() -> bool:
            return bool(await admin.fetchval("SELECT count(DISTINCT seq) FROM message WHERE stream = 'LINES'") == 3)

        await eventually(archived)

        async def well() -> bool:
            return runtime.health.problem("projection archive-lines") is None

        await eventually(well)
    # No row was given up for it.
    assert await admin.fetchval("SELECT count(*) FROM message WHERE type = 'undecodable'") == 0
    assert await admin.fetchval("SELECT count(*) FROM gap") == 0
    await admin.close()
