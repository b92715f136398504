"""Services of the last release go on while the database is this release's: migrations only add (docs/upgrading.md)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from deploy.postgres import SUPERUSER
from deploy.prepare import prepare_database
from shared.messages.log import SERVICES
from tests.support.released import Shape, broken, released, shape_of
from tests.support.servers import Servers

DATABASE = "rolling"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def upgraded(servers: Servers) -> AsyncIterator[tuple[asyncpg.Connection[Any], Shape, Shape]]:
    """A database that was the last release's and is this one's, and its shapes then and now."""
    await servers.postgres.create_database(DATABASE)
    url = servers.postgres.url(SUPERUSER, servers.credentials.postgres_admin, DATABASE)
    await prepare_database(url, servers.credentials, until=released().schema)
    connection = await asyncpg.connect(url)
    try:
        before = await shape_of(connection)
        await prepare_database(url, servers.credentials)
        yield connection, before, await shape_of(connection)
    finally:
        await connection.close()
        admin = await asyncpg.connect(servers.postgres.url(SUPERUSER, servers.credentials.postgres_admin, "postgres"))
        await admin.execute(f'DROP DATABASE "{DATABASE}" WITH (FORCE)')
        await admin.close()


async def test_no_migration_takes_what_the_last_release_uses(upgraded: tuple[asyncpg.Connection[Any], Shape, Shape]) -> None:
    _, before, after = upgraded
    assert {table.partition(".")[0] for table, _ in before.columns} == set(SERVICES)
    assert broken(before, after, released().changed) == []


@pytest.mark.parametrize(
    ("statement", "refused"),
    [
        ("ALTER TABLE events.delivery DROP COLUMN outcome CASCADE", "events.delivery.outcome is dropped or renamed"),
        ("ALTER TABLE executor.run RENAME COLUMN status TO other_status", "executor.run.status is dropped or renamed"),
        ("DROP TABLE events.delivery_run CASCADE", "events.delivery_run.run is dropped or renamed"),
        ("ALTER TABLE executor.run ALTER COLUMN last_seq TYPE numeric", "executor.run.last_seq is numeric"),
        ("ALTER TABLE executor.run ADD COLUMN new text NOT NULL", "executor.run.new is new and has no default"),
        ("CREATE UNIQUE INDEX one_each ON executor.run (org, workflow)", "executor.run.one_each refuses rows"),
        ("ALTER TABLE executor.run ADD CONSTRAINT few CHECK (last_seq < 3)", "executor.run.few refuses rows"),
    ],
)
async def test_a_migration_that_does_is_named(
    upgraded: tuple[asyncpg.Connection[Any], Shape, Shape], statement: str, refused: str
) -> None:
    connection, before, _ = upgraded
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(statement)
        found = broken(before, await shape_of(connection), released().changed)
        assert [one for one in found if one.startswith(refused)], found
    finally:
        await transaction.rollback()


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE executor.run ADD COLUMN new text",
        "ALTER TABLE executor.run ADD COLUMN new integer NOT NULL DEFAULT 0",
        "CREATE TABLE executor.other (id text PRIMARY KEY)",
        "CREATE INDEX by_sequence ON executor.run (last_seq)",
    ],
)
async def test_what_only_adds_is_not(upgraded: tuple[asyncpg.Connection[Any], Shape, Shape], statement: str) -> None:
    connection, before, _ = upgraded
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(statement)
        assert broken(before, await shape_of(connection), released().changed) == []
    finally:
        await transaction.rollback()
