"""The tables that services declare are those that their migrations make, to the last index."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable, MetaData

from tests.support.servers import Place

DECLARED = ("logs", "executor")
# Its own table of what was migrated.
ALEMBIC = "migration"
_COLUMNS = """
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
           CASE WHEN a.attcollation <> 100 THEN l.collname END, pg_get_partkeydef(c.oid)
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum LEFT JOIN pg_collation l ON l.oid = a.attcollation
     WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
"""
_INDEXES = """
    SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
      JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND NOT c.relispartition
"""
_CHECKS = """
    SELECT conrelid::regclass::text, pg_get_constraintdef(k.oid) FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace
     WHERE n.nspname = $1 AND contype NOT IN ('p', 'n') AND NOT (SELECT relispartition FROM pg_class WHERE oid = conrelid)
"""


@pytest_asyncio.fixture
async def admin(place: Place) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(place.database_url("admin"))
    yield connection
    await connection.close()


async def found(admin: asyncpg.Connection[Any], schema: str) -> set[tuple[Any, ...]]:
    """Return every column, index and constraint of a schema, without its name."""
    rows = [tuple(row) for query in (_COLUMNS, _INDEXES, _CHECKS) for row in await admin.fetch(query, schema)]
    plain = [tuple(one.replace(f"{schema}.", "") if isinstance(one, str) else one for one in row) for row in rows]
    return {row for row in plain if row[0] != ALEMBIC and f" {ALEMBIC} " not in row[0]}


async def declare(admin: asyncpg.Connection[Any], metadata: MetaData) -> None:
    """Make the declared tables in a schema of their own."""
    await admin.execute("CREATE SCHEMA declared; SET search_path = declared")
    for table in metadata.sorted_tables:
        for element in (CreateTable(table), *(CreateIndex(index) for index in table.indexes)):
            await admin.execute(str(element.compile(dialect=postgresql.dialect())))


@pytest.mark.parametrize("service", DECLARED)
async def test_the_migrated_schema_is_the_declared_one(admin: asyncpg.Connection[Any], service: str) -> None:
    await declare(admin, importlib.import_module(f"services.{service}.tables").metadata)
    declared, migrated = await found(admin, "declared"), await found(admin, service)
    assert declared
    assert declared - migrated == set()
    assert migrated - declared == set()
