"""Rows and checkpoint move together or not at all, in one statement and in several."""

from __future__ import annotations

import asyncpg
import pytest

from shared.checkpoint import CheckpointMoved, run
from shared.statements import Statement
from tests.support.servers import Place

PUT = Statement("INSERT INTO delivery_run (run, delivery, workflow, status, requested_at) VALUES ($1, 'd', 'w', 'queued', now())")


def put(run: str) -> Statement:
    return PUT._replace(values=(run,))


@pytest.mark.parametrize("count", [0, 1, 2])
async def test_a_writer_that_was_superseded_writes_nothing(place: Place, count: int) -> None:
    connection = await asyncpg.connect(place.database_url("events"))
    try:
        await connection.execute("INSERT INTO checkpoint (projection, stream, incarnation, last_seq) VALUES ('p', 'S', 'i', 7)")
        statements = [put(f"r{number}") for number in range(count)]
        for position in (("p", "i", 6, 8), ("p", "other", 7, 8), ("q", "i", 7, 8)):
            with pytest.raises(CheckpointMoved):
                await run(connection, statements, position)
        assert await connection.fetchval("SELECT count(*) FROM delivery_run") == 0
        assert await connection.fetchval("SELECT last_seq FROM checkpoint WHERE projection = 'p'") == 7
        await run(connection, statements, ("p", "i", 7, 8))
        assert await connection.fetchval("SELECT count(*) FROM delivery_run") == count
        assert await connection.fetchval("SELECT last_seq FROM checkpoint WHERE projection = 'p'") == 8
    finally:
        await connection.close()


@pytest.mark.parametrize("count", [1, 2])
async def test_rows_that_are_refused_leave_the_checkpoint_where_it_was(place: Place, count: int) -> None:
    connection = await asyncpg.connect(place.database_url("events"))
    try:
        await connection.execute("INSERT INTO checkpoint (projection, stream, incarnation, last_seq) VALUES ('p', 'S', 'i', 7)")
        await connection.execute(PUT.sql, "taken")
        statements = [*(put(f"r{number}") for number in range(count - 1)), put("taken")]
        with pytest.raises(asyncpg.UniqueViolationError):
            await run(connection, statements, ("p", "i", 7, 8))
        assert await connection.fetchval("SELECT count(*) FROM delivery_run") == 1
        assert await connection.fetchval("SELECT last_seq FROM checkpoint WHERE projection = 'p'") == 7
    finally:
        await connection.close()
