"""Advisory locks: one replica writes, the others wait for as long as it takes."""

from __future__ import annotations

import asyncio

import asyncpg

from shared import db
from tests.support.servers import Place


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
    async with asyncio.timeout(5):
        await waiting
    assert held.is_set()
