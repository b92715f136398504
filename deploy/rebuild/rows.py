"""The rows of projections: finding, digesting and dropping them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, TypeAlias

import asyncpg
import msgspec

from deploy.positions import Held
from deploy.rebuild.memory import Digest
from shared.projected import Projected

# Hashes on their way from the server at a time: 32 bytes each.
FETCHED = 10_000
Connection: TypeAlias = asyncpg.Connection


class Rows(msgspec.Struct, frozen=True):
    """All rows of a table, or those of one projection in a table that several share. `name` is for people."""

    name: str
    table: str
    condition: str = "true"
    parameters: tuple[Any, ...] = ()

    @property
    def whole(self) -> bool:
        """Return whether these are all rows of the table."""
        return self.condition == "true"


def rows_of(service: str, projected: Iterable[Projected], held: dict[str, Held]) -> list[Rows]:
    """Return the tables that these projections fill, each once."""
    found: dict[str, Rows] = {}
    for one in projected:
        for table in one.tables:
            qualified = f'"{service}"."{table}"'
            if one.rows is None:
                rows = Rows(f"{service}.{table}", qualified)
            else:
                stream = held[one.stream]
                values = {":stream": stream.stream, ":incarnation": stream.incarnation, ":first": stream.first}
                named = [name for name in values if name in one.rows]
                condition = one.rows
                for number, name in enumerate(named, start=1):
                    condition = condition.replace(name, f"${number}")
                parameters = tuple(values[name] for name in named)
                rows = Rows(f"{service}.{table} of {one.stream}", qualified, condition, parameters)
            found[rows.name] = rows
    return list(found.values())


async def digest(connection: Connection, rows: Rows) -> Digest:
    """Return the digest of the rows; each is hashed by the server, and only hashes come here, a few at a time."""
    order = ", ".join(await _key(connection, rows.table))
    count, total = 0, hashlib.sha256()
    statement = f"SELECT sha256(convert_to(t::text, 'UTF8')) AS hash FROM {rows.table} t WHERE {rows.condition} ORDER BY {order}"  # noqa: S608
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        async for row in connection.cursor(statement, *rows.parameters, prefetch=FETCHED, timeout=None):
            total.update(row["hash"])
            count += 1
    return Digest(count, total.hexdigest())


async def any_there(connection: Connection, rows: Iterable[Rows]) -> bool:
    """Return whether there is a single row."""
    for one in rows:
        statement = f"SELECT EXISTS (SELECT FROM {one.table} WHERE {one.condition})"  # noqa: S608
        if await connection.fetchval(statement, *one.parameters):
            return True
    return False


async def orphans(connection: Connection, rows: Iterable[Rows], ids: Iterable[str]) -> int:
    """Return how many rows have an `id` that is not among `ids`."""
    count = 0
    for one in rows:
        given = f"unnest(${len(one.parameters) + 1}::text[])"
        statement = (
            f"SELECT count(*) FROM {one.table} t WHERE {one.condition} AND NOT EXISTS (SELECT FROM {given} k WHERE k = t.id)"  # noqa: S608
        )
        count += await connection.fetchval(statement, *one.parameters, list(ids), timeout=None)
    return count


async def drop(connection: Connection, rows: Iterable[Rows]) -> None:
    """Remove the rows, within the caller's transaction."""
    for one in rows:
        statement = f"TRUNCATE {one.table}" if one.whole else f"DELETE FROM {one.table} WHERE {one.condition}"  # noqa: S608
        await connection.execute(statement, *one.parameters, timeout=None)


async def _key(connection: Connection, table: str) -> list[str]:
    """Return the columns of a table's primary key, quoted."""
    found = await connection.fetch(
        "SELECT quote_ident(a.attname) AS name FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place),"
        " pg_attribute a WHERE i.indrelid = $1::text::regclass AND i.indisprimary AND a.attrelid = i.indrelid"
        " AND a.attnum = k.number ORDER BY k.place",
        table,
    )
    return [row["name"] for row in found]
