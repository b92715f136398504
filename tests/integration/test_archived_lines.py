"""Lines and workflows in the archive: as they come, as they were before, and as Postgres refuses them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import asyncpg
import msgspec
import pytest

from deploy.prepare import prepare_database
from services.logs import conversion, lines, projections
from services.logs.domain import Row
from services.logs.gaps import GapFinder
from services.logs.projections import keeping
from shared.bus import Bus
from shared.envelope import new_id, rfc3339, utc_now
from shared.messages import LineChunk, Lines, RunError, RunFailed, RunRequested, RunUsage
from shared.pull import Delivered
from tests.support.inside import bus_of, eventually, running
from tests.support.servers import Place

USAGE = RunUsage()


def chunk(run: str, *messages: str) -> LineChunk:
    said = [
        Lines(time=rfc3339(utc_now() - timedelta(seconds=1)), level="info", message=text, fields={"status": 200})
        for text in messages
    ]
    return LineChunk(run=run, workflow="sync", attempt=1, chunk=1, lines=said)


async def publish_a_run(bus: Bus, run: str) -> None:
    asked = bus.seal(RunRequested(run=run, workflow="sync", version="v", requested_by="t", timeout=60.0), org="acme")
    failed = RunFailed(run=run, attempt=1, reason="error", error=RunError("E", "no"), duration_ms=1.0, usage=USAGE)
    await bus.publish(asked)
    await bus.publish(bus.seal(chunk(run, "one", "two"), org="acme", cause=asked.envelope))
    await bus.publish(bus.seal(failed, org="acme", cause=asked.envelope))


async def rows_of(connection: Any, count: int, where: str = "true") -> list[dict[str, Any]]:
    async def enough() -> list[Any] | None:
        found = await connection.fetch(f"SELECT * FROM message WHERE {where} ORDER BY stream, seq, line")
        return [dict(row) for row in found] if len(found) >= count else None

    rows = await eventually(enough)
    assert isinstance(rows, list)
    assert len(rows) == count
    return rows


async def test_all_messages_of_a_run_are_its_workflows_also_over_a_restart(place: Place) -> None:
    connection = await asyncpg.connect(place.database_url("logs"))
    run, late = new_id(), new_id()
    async with bus_of(place, "executor") as bus:
        async with running(place, "logs"):
            await publish_a_run(bus, run)
            asked = bus.seal(RunRequested(run=late, workflow="other", version="v", requested_by="t", timeout=60.0), org="acme")
            await bus.publish(asked)
            await rows_of(connection, 6)
        failed = RunFailed(run=late, attempt=1, reason="error", error=RunError("E", "no"), duration_ms=1.0, usage=USAGE)
        await bus.publish(bus.seal(failed, org="acme", cause=asked.envelope))
        async with running(place, "logs"):
            rows = await rows_of(connection, 7)
    found = {(row["type"], row["run"], row["workflow"]) for row in rows}
    assert found == {
        ("run.requested", run, "sync"),
        ("line.logged", run, "sync"),
        ("run.failed", run, "sync"),
        ("run.requested", late, "other"),
        ("run.failed", late, "other"),
    }
    await connection.close()


async def test_what_an_earlier_version_archived_becomes_what_this_one_archives(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await asyncpg.connect(place.database_url("logs"))
    monkeypatch.setattr(conversion, "BATCH", 2)
    monkeypatch.setattr(conversion, "REST", 0.0)
    async with bus_of(place, "executor") as bus:
        async with running(place, "logs"):
            for _ in range(3):
                await publish_a_run(bus, new_id())
            as_it_is = await rows_of(connection, 15)
        # As rows were before there were lines: one for each message, without the two columns.
        await connection.execute("DELETE FROM message WHERE line > 0")
        await connection.execute("UPDATE message SET message = 'one', data = '{}', tsv = 'one' WHERE line < 0")
        await connection.execute("UPDATE message SET tsv = to_tsvector('simple', message) WHERE line = 0")
        await connection.execute("ALTER TABLE message DROP COLUMN workflow, DROP COLUMN line, DROP COLUMN version")
        # With the column went the index that has it.
        await connection.execute("CREATE INDEX message_org ON message (org, time)")
        await connection.execute("DROP TABLE conversion, gap, resource, alert, removal, erasure")
        await connection.execute("UPDATE migration SET version_num = 'logs_0001'")
        await prepare_database(place.database_url("admin"), place.credentials)
        async with running(place, "logs") as runtime:

            async def over() -> bool:
                left = await connection.fetchval("SELECT count(*) FROM conversion")
                return not left and "over" in str(runtime.health.document())

            await eventually(over)
            # But for what says which version made them.
            unversioned = [[{**row, "version": 0} for row in rows] for rows in (as_it_is, await rows_of(connection, 15))]
            assert unversioned[0] == unversioned[1]
    await connection.close()


async def test_a_line_that_postgres_refuses_is_kept_bare_beside_the_others(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fragile(whole: Row) -> list[Row]:
        # What an unforeseen line could do: JSON that jsonb does not take.
        return [msgspec.structs.replace(row, data='"\\u0000"') if row.message == "bad" else row for row in lines.split(whole)]

    monkeypatch.setattr(projections, "split", fragile)
    connection = await asyncpg.connect(place.database_url("logs"))
    async with bus_of(place, "executor") as bus, bus_of(place, "logs") as own:
        document = bus.seal(chunk(new_id(), "good", "bad", "better"), org="acme").document
        async with connection.transaction():
            keep = keeping("LINES", GapFinder("LINES", own.client))
            await keep(Delivered("line.x.logged", document, 1, utc_now(), {}, 0), "inc", connection)
        rows = await rows_of(connection, 4)
        assert [(row["line"], row["message"]) for row in rows] == [(-1, ""), (1, "good"), (2, "bad"), (3, "better")]
        assert rows[0]["document"] == document
        assert "omitted" in rows[2]["data"]
    await connection.close()
