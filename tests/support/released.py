"""The release before this one: where its tree is, and what of its tables a migration has to leave as it is."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from shared.messages.log import SERVICES

ROOT = Path(__file__).parents[2]
_COLUMNS = """
    SELECT table_schema || '.' || table_name AS "table", column_name AS name, udt_name AS type, is_nullable = 'YES' AS nullable,
           column_default IS NOT NULL OR is_identity = 'YES' OR is_generated = 'ALWAYS' AS filled
    FROM information_schema.columns WHERE table_schema = ANY($1)
"""
# Those that refuse a row: a unique index is one as well.
_CONSTRAINTS = """
    SELECT n.nspname || '.' || c.relname AS "table", o.conname AS name, pg_get_constraintdef(o.oid) AS definition
    FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = ANY($1) AND o.contype IN ('c', 'u', 'x', 'f', 'p') AND c.relispartition = false
    UNION ALL
    SELECT n.nspname || '.' || c.relname, i.relname, pg_get_indexdef(i.oid)
    FROM pg_index x JOIN pg_class c ON c.oid = x.indrelid JOIN pg_class i ON i.oid = x.indexrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = ANY($1) AND x.indisunique AND c.relispartition = false
      AND NOT EXISTS (SELECT FROM pg_constraint o WHERE o.conindid = i.oid)
"""


class Release(msgspec.Struct, frozen=True):
    """The file `tests/released.toml`."""

    commit: str
    schema: dict[str, str]
    changed: dict[str, str]


class Column(msgspec.Struct, frozen=True):
    """A column: its type, whether it may be null, and whether it has a value where an insert gives none."""

    type: str
    nullable: bool
    filled: bool


class Shape(msgspec.Struct, frozen=True):
    """The columns of all tables by (table, name), and what refuses rows by (table, name)."""

    columns: dict[tuple[str, str], Column]
    constraints: dict[tuple[str, str], str]


def released() -> Release:
    """Return what is noted of the release before this one."""
    return msgspec.convert(tomllib.loads((ROOT / "tests" / "released.toml").read_text()), Release)


async def shape_of(connection: asyncpg.Connection[Any]) -> Shape:
    """Return the shape of the services' tables."""
    columns = {
        (row["table"], row["name"]): Column(row["type"], row["nullable"], row["filled"])
        for row in await connection.fetch(_COLUMNS, list(SERVICES))
    }
    found = {(row["table"], row["name"]): row["definition"] for row in await connection.fetch(_CONSTRAINTS, list(SERVICES))}
    return Shape(columns, found)


def broken(before: Shape, after: Shape, changed: Container[str] = ()) -> list[str]:
    """Return what services that know the tables as `before` cannot do `after`, a sentence each, but for what is in `changed`."""
    return [
        f"{table}.{name} {why}"
        for table, name, why in _breaks(before, after)
        if table not in changed and f"{table}.{name}" not in changed
    ]


def _breaks(before: Shape, after: Shape) -> Iterator[tuple[str, str, str]]:
    tables = {table for table, _ in before.columns}
    for (table, name), was in before.columns.items():
        now = after.columns.get((table, name))
        if now is None:
            yield table, name, "is dropped or renamed: it is still read"
        elif now.type != was.type:
            yield table, name, f"is {now.type} and was {was.type}"
        elif was.nullable and not now.nullable:
            yield table, name, "must not be null any more: it is still written so"
        elif was.filled and not now.filled and not now.nullable:
            yield table, name, "has no default any more: inserts rely on it"
    for (table, name), now in after.columns.items():
        if table in tables and (table, name) not in before.columns and not (now.nullable or now.filled):
            yield table, name, "is new and has no default: inserts do not give it"
    for (table, name), definition in after.constraints.items():
        if table in tables and before.constraints.get((table, name)) != definition:
            yield table, name, f"refuses rows that are still written: {definition}"
    for (table, name), definition in before.constraints.items():
        # An upsert names what it conflicts with.
        if ("UNIQUE" in definition or "PRIMARY KEY" in definition) and (table, name) not in after.constraints:
            yield table, name, "is dropped: upserts rely on it"


def tree_of(commit: str, folder: Path) -> str | None:
    """Put the tree of a commit into a folder; return why that is not possible, None when it is done."""
    told = subprocess.run(["git", "archive", "--format=tar", commit], cwd=ROOT, capture_output=True, check=False)
    if told.returncode:
        return f"the release before this one is not to be had: {told.stderr.decode('utf-8', 'replace').strip()}"
    folder.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=told.stdout, check=True)
    return None
