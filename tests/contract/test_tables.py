"""The tables that services declare are those that their migrations make, to the last index."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable, MetaData

from services.events import tables as deliveries
from services.executor import tables as executions
from services.logs import tables as archive
from services.oauth import tables as vault
from tests.support.servers import Servers

DECLARED = {"events": deliveries.metadata, "executor": executions.metadata, "logs": archive.metadata, "oauth": vault.metadata}
"""What declares all tables of a service's schema."""
# Alembic's own table of what was migrated.
ALEMBIC = "migration"
_COLUMNS = """
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
           CASE WHEN a.attcollation <> 100 THEN l.collname END, pg_get_partkeydef(c.oid)
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum LEFT JOIN pg_collation l ON l.oid = a.attcollation
     WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
"""
_INDEXES = """
    SELECT c.relname, pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
      JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND NOT c.relispartition
"""
_CHECKS = """
    SELECT c.relname, pg_get_constraintdef(k.oid) FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
      JOIN pg_namespace n ON n.oid = k.connamespace WHERE n.nspname = $1 AND contype NOT IN ('p', 'n') AND NOT c.relispartition
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def admin(servers: Servers) -> AsyncIterator[asyncpg.Connection[Any]]:
    async with servers.place() as place:
        connection = await asyncpg.connect(place.database_url("admin"))
        yield connection
        await connection.close()


async def found(admin: asyncpg.Connection[Any], schema: str) -> set[tuple[Any, ...]]:
    """Return every column, index and constraint of a schema, without its name; the table comes first."""
    given = [row for query in (_COLUMNS, _INDEXES, _CHECKS) for row in await admin.fetch(query, schema)]
    return {tuple(one.replace(f"{schema}.", "") if isinstance(one, str) else one for one in row) for row in given}


async def declare(admin: asyncpg.Connection[Any], metadata: MetaData) -> None:
    """Make the declared tables in a schema of their own."""
    await admin.execute("DROP SCHEMA IF EXISTS declared CASCADE; CREATE SCHEMA declared; SET search_path = declared")
    for table in metadata.sorted_tables:
        for element in (CreateTable(table), *(CreateIndex(index) for index in table.indexes)):
            await admin.execute(str(element.compile(dialect=postgresql.dialect())))


@pytest.mark.parametrize("service", DECLARED)
async def test_the_migrated_tables_are_the_declared_ones(admin: asyncpg.Connection[Any], service: str) -> None:
    metadata = DECLARED[service]
    await declare(admin, metadata)
    declared = await found(admin, "declared")
    migrated = {row for row in await found(admin, service) if row[0] in metadata.tables}
    assert declared
    assert declared - migrated == set()
    assert migrated - declared == set()


@pytest.mark.parametrize("service", DECLARED)
async def test_no_table_is_undeclared(admin: asyncpg.Connection[Any], service: str) -> None:
    assert {row[0] for row in await found(admin, service)} == DECLARED[service].tables.keys() | {ALEMBIC}
