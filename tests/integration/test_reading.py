"""Reading by the driver itself: which connections go back to the pool, and what a database that is away is called."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.db import open_engine, reading
from shared.errors import NotFound, Unavailable
from shared.statements import written
from tests.support.servers import Place


@pytest_asyncio.fixture
async def engine(place: Place) -> AsyncIterator[AsyncEngine]:
    made = open_engine(place.database_url("logs"), service="logs", pool_size=1, settings={"work_mem": "77MB"})
    yield made
    await made.dispose()


async def _session(engine: AsyncEngine) -> int:
    async with reading(engine) as connection:
        return int(connection.get_server_pid())


async def test_an_error_of_ours_leaves_a_connection_and_any_other_ends_it(engine: AsyncEngine) -> None:
    first = await _session(engine)
    with pytest.raises(NotFound):
        async with reading(engine):
            raise NotFound("there is none")
    assert await _session(engine) == first
    with pytest.raises(asyncpg.UndefinedTableError):
        async with reading(engine) as connection:
            await connection.fetch("SELECT FROM nowhere")
    second = await _session(engine)
    assert second != first
    begun = asyncio.Event()

    async def sleep() -> None:
        async with reading(engine) as connection:
            begun.set()
            await connection.fetch("SELECT pg_sleep(60)")

    sleeping = asyncio.create_task(sleep())
    await begun.wait()
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    assert await _session(engine) != second


async def test_a_connection_that_was_ended_in_the_pool_is_given_to_nobody(place: Place, engine: AsyncEngine) -> None:
    ended = asyncio.Event()
    async with reading(engine) as connection:
        connection.add_termination_listener(lambda _: ended.set())
    admin = await asyncpg.connect(place.database_url("admin"))
    session = connection.get_server_pid()
    await admin.execute("SELECT pg_terminate_backend($1)", session)
    await admin.close()
    await ended.wait()
    assert await _session(engine) != session


async def test_a_database_that_is_away_is_unavailable(place: Place, engine: AsyncEngine) -> None:
    session = await _session(engine)
    admin = await asyncpg.connect(place.database_url("admin"))
    name = await admin.fetchval("SELECT quote_ident(current_database())")
    try:
        await admin.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 0")
        await admin.execute("SELECT pg_terminate_backend($1, 10000)", session)
        for reason in ("a session that was ended", "no session is given"):
            with pytest.raises(Unavailable, match="cannot be reached"):
                async with reading(engine) as connection:
                    assert not await connection.fetch("SELECT 1"), reason
        await admin.execute(f"ALTER DATABASE {name} CONNECTION LIMIT -1")
        assert await _session(engine) != session
    finally:
        await admin.close()
    async with reading(engine), asyncio.timeout(10):
        with pytest.raises(Unavailable, match="all database connections are in use"):
            await _session(engine)
    nowhere = open_engine("postgresql://nobody:x@/none?host=/nowhere", service="logs")
    with pytest.raises(Unavailable, match="cannot be reached"):
        await _session(nowhere)


async def test_parameters_of_a_text_are_numbered_once_each_and_casts_are_none(engine: AsyncEngine) -> None:
    asked = written(
        "SELECT :one::text, :two + CAST(:two AS int), '{}', current_setting('work_mem')", {"two": 2, "one": "1", "other": 3}
    )
    assert asked == ("SELECT $1::text, $2 + CAST($2 AS int), '{}', current_setting('work_mem')", ("1", 2))
    async with reading(engine) as connection:
        assert [tuple(row) for row in await asked.fetch(connection)] == [("1", 4, "{}", "77MB")]
