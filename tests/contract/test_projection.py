"""Rows and checkpoint move together or not at all, in one statement and in several; a checkpoint without rows may stay behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest

from shared import projection
from shared.checkpoint import CheckpointMoved, run
from shared.db import Connection
from shared.pull import Delivered
from shared.statements import Copy, Statement
from tests.contract.test_salvage import document, projecting
from tests.contract.test_salvage import put as stored
from tests.support.inside import eventually
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


async def test_a_copy_ends_when_its_connection_is_lost_while_nothing_more_can_be_written(place: Place) -> None:
    connection = await asyncpg.connect(place.database_url("logs"))
    server = await connection.fetchval("SELECT pg_backend_pid()")

    async def rows() -> AsyncIterator[bytes]:
        while True:
            yield bytes(65536)
            await asyncio.sleep(0)

    os.kill(server, signal.SIGSTOP)
    try:
        copying = asyncio.create_task(Copy("message", ("seq",), rows).run(connection))
        await eventually(lambda: _is_full(connection))
        connection._transport.abort()
        with pytest.raises(asyncpg.ConnectionDoesNotExistError):
            await asyncio.wait_for(copying, 30)
    finally:
        os.kill(server, signal.SIGCONT)


async def _is_full(connection: Connection) -> bool:
    return not connection._protocol.writing_allowed.is_set()


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


async def position(place: Place) -> int:
    connection = await asyncpg.connect(place.database_url("events"))
    try:
        found = await connection.fetchval("SELECT last_seq FROM checkpoint WHERE projection = 'runs'")
        return int(found or 0)
    finally:
        await connection.close()


async def test_a_checkpoint_stays_behind_without_rows_and_moves_with_the_next_ones(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "BEHIND_FOR", 3600.0)
    read: list[int] = []

    async def apply(batch: Sequence[Delivered], _incarnation: str, _connection: Connection) -> list[Statement]:
        read.extend(one.sequence for one in batch)
        return [put(f"r{one.sequence}") for one in batch if b"rows" in one.data]

    async with projecting(place, apply) as running:
        sequences = []
        for workflow in ("none", "none", "rows", "none"):
            sequences += await stored(place, [document(workflow)])
            await running.reached(sequences[-1])
        assert await position(place) == sequences[2]
    async with projecting(place, apply) as running:
        await running.reached(sequences[-1])
        assert read == [*sequences, sequences[-1]]

        async def moved() -> bool:
            return await position(place) == sequences[-1]

        assert await eventually(moved)  # by a heartbeat, as nothing else comes


async def test_a_checkpoint_does_not_stay_behind_for_long(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "BEHIND_FOR", 0.0)

    async def apply(_batch: Sequence[Delivered], _incarnation: str, _connection: Connection) -> list[Statement]:
        return []

    async with projecting(place, apply) as running:
        for _ in range(2):
            (sequence,) = await stored(place, [document()])
            await running.reached(sequence)
            assert await position(place) == sequence
