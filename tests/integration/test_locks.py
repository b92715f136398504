"""Advisory locks: one replica writes, the others wait for as long as it takes."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import asyncpg

from shared import db
from tests.support.inside import eventually, running
from tests.support.servers import Place

ROOT = Path(__file__).resolve().parents[2]


async def test_a_second_replica_waits_for_a_lock_longer_than_its_role_may_query(place: Place) -> None:
    admin = await asyncpg.connect(place.database_url("admin"))
    try:
        name = await admin.fetchval("SELECT quote_ident(current_database())")
        await admin.execute(f"ALTER ROLE millrace_events IN DATABASE {name} SET statement_timeout = '200ms'")
    finally:
        await admin.close()
    url = place.database_url("events")
    held = asyncio.Event()

    async def second() -> None:
        async with db.held_lock(url, "one", service="events"):
            held.set()

    async with db.held_lock(url, "one", service="events"):
        waiting = asyncio.create_task(second())
        done, _ = await asyncio.wait([waiting], timeout=1)
        assert (done, held.is_set()) == (set(), False)
    async with asyncio.timeout(60):
        await waiting
    assert held.is_set()


# A process that gives way, and the niceness of the one that serves its connection, and of that one's session.
GIVES_WAY = """
import asyncio, os, sys
from pathlib import Path
from shared import db

async def main():
    os.setpriority(os.PRIO_PROCESS, 0, 3)
    async with db.held_lock(sys.argv[1], "nice", service="events") as held:
        backend = held.connection.get_server_pid()
        session = Path("/proc", str(backend), "autogroup")
        async with asyncio.timeout(60):
            while os.getpriority(os.PRIO_PROCESS, backend) != 3 or (session.exists() and session.read_text().split()[-1] != "3"):
                await asyncio.sleep(0.01)

asyncio.run(main())
"""


async def test_the_database_gives_way_where_the_process_that_it_works_for_does(place: Place) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", GIVES_WAY, place.database_url("events"), cwd=ROOT)
    assert await process.wait() == 0


async def test_a_replica_that_waits_for_another_is_ready_again_after_the_database_was_away(place: Place) -> None:
    other = await asyncpg.connect(place.database_url("admin"))
    try:
        # The other replica's connection; as the administrator's it is not cut.
        await other.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", "events.runs")
        async with running(place, "events") as runtime:

            def told() -> str | None:
                found: str | None = runtime.health.document()["parts"].get("projection runs", {}).get("detail")
                return found

            async def is_waiting() -> bool:
                waiting = await other.fetchval(
                    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                )
                return bool(waiting == 1)

            async def noticed() -> bool:
                return told() is not None

            async def is_ready() -> bool:
                return runtime.health.ready

            await eventually(is_waiting)
            async with place.database_away():
                await eventually(noticed)
            await eventually(is_waiting)
            await eventually(is_ready)
    finally:
        await other.close()
