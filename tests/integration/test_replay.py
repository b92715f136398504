"""Every projection dropped and replayed from the bus gives equal rows."""

from __future__ import annotations

import hashlib
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import nats

from tests.support.inside import eventually, running
from tests.support.river import river
from tests.support.servers import Place

# oauth's tokens live in their table only, by design; its rows are not a projection.
SCHEMAS = ("events", "executor", "logs")
NOT_PROJECTED = ("checkpoint", "migration")

WORKFLOWS = b"""
from millrace import log, workflow


@workflow(name="greet")
def greet(event: dict) -> dict:
    log.info("greeting")
    return {"ref": event["data"]["ref"]}
"""


# Projections that read some messages of their stream only: the last message of it is mostly none of theirs.
FILTERED = {"catalog", "registrations", "schedules", "declared-schedules", "timers", "held", "held-runs", "held-timers", "history"}


async def tables(connection: asyncpg.Connection) -> list[str]:
    rows = await connection.fetch(
        "SELECT n.nspname AS schema, c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = ANY($1::text[]) AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname <> ALL($2::text[])",
        list(SCHEMAS),
        list(NOT_PROJECTED),
    )
    return sorted(f'"{row["schema"]}"."{row["name"]}"' for row in rows)


async def digests(connection: asyncpg.Connection) -> dict[str, tuple[int, str]]:
    """Return the number of rows of every projected table and a digest of their texts in order."""
    made: dict[str, tuple[int, str]] = {}
    for table in await tables(connection):
        rows = sorted(row["row"] for row in await connection.fetch(f"SELECT t::text AS row FROM {table} t"))
        made[table] = (len(rows), hashlib.sha256("\n".join(rows).encode()).hexdigest())
    return made


async def caught_up(place: Place, connection: asyncpg.Connection) -> bool:
    """Say whether every checkpoint stands at the last message that its projection is concerned with."""
    client = await nats.connect(place.nats_url("admin"))
    try:
        js = client.jetstream()
        last = {info.config.name: info.state.last_seq for info in await js.streams_info()}
    finally:
        await client.close()
    for schema in SCHEMAS:
        for row in await connection.fetch(f"SELECT projection, stream, last_seq FROM {schema}.checkpoint"):
            filtered = row["projection"] in FILTERED
            # Services that start or stop log about it: LOGS never stands still.
            if not filtered and row["stream"] != "LOGS" and row["last_seq"] != last[row["stream"]]:
                return False
    return True


async def test_dropped_projections_replay_to_equal_rows(place: Place, data: Path) -> None:
    connection = await asyncpg.connect(place.database_url("admin"))
    try:

        async def settled() -> bool:
            return await caught_up(place, connection)

        async with AsyncExitStack() as stack:
            outside = await stack.enter_async_context(river(place, data))
            await stack.enter_async_context(running(place, "logs"))
            source = await outside.source()
            await outside.subscription()
            missing = await outside.webhook(source, {"ref": "early"})
            await outside.delivery(missing, "unroutable")
            await outside.put_file("greet.py", WORKFLOWS)
            deliveries = [await outside.webhook(source, {"ref": f"refs/{number}"}) for number in range(30)]
            deliveries += [await outside.webhook(source, {"ref": "x"}, event="ping")]
            for delivery in deliveries[:30]:
                view = await outside.delivery(delivery, "routed")
                await outside.run(view.runs[0].id, "succeeded")
            await outside.delivery(deliveries[30], "filtered")
            await eventually(settled)
        before = await digests(connection)
        assert before['"executor"."run"'][0] == 30
        assert before['"events"."delivery"'][0] == 32
        assert before['"logs"."message"'][0] > 200
        for table in await tables(connection):
            await connection.execute(f"TRUNCATE {table}")
        for schema in SCHEMAS:
            await connection.execute(f"DELETE FROM {schema}.checkpoint")
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(river(place, data))
            await stack.enter_async_context(running(place, "logs"))
            await eventually(settled)

            async def equal() -> bool:
                return await digests(connection) == before

            await eventually(equal)
    finally:
        await connection.close()
