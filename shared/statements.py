"""Statements of the Postgres driver, compiled once from SQLAlchemy Core, for projections and frequent questions."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from operator import getitem
from typing import Any, NamedTuple

import asyncpg
from sqlalchemy import (
    ARRAY,
    BindParameter,
    Column,
    ColumnElement,
    Select,
    String,
    Table,
    TableValuedAlias,
    Text,
    bindparam,
    func,
    select,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.base import Executable

from shared.db import Connection, ending, reading

_DIALECT = postgresql.asyncpg.dialect()  # type: ignore[no-untyped-call]
_NAMED = re.compile(r"(?<!:):([a-z_][a-z0-9_]*)")


class Statement(NamedTuple):
    """A statement and the values of its `$1`, `$2` …; a projection's returns nothing."""

    sql: str
    values: tuple[Any, ...] = ()

    async def run(self, connection: Connection) -> None:
        """Run this statement."""
        await connection.execute(self.sql, *self.values)

    async def fetch(self, connection: Connection) -> list[asyncpg.Record]:
        """Return the rows that this statement selects."""
        return list(await connection.fetch(self.sql, *self.values))

    async def read(self, engine: AsyncEngine) -> list[asyncpg.Record]:
        """Return the rows of this statement, which is a transaction of its own: one round trip. Raises `Unavailable`."""
        async with reading(engine) as connection:
            return await self.fetch(connection)


class Copy(NamedTuple):
    """Rows for COPY, in its binary format; `source` begins to make them, and they are sent as they come."""

    table: str
    columns: tuple[str, ...]
    source: Callable[[], AsyncIterator[bytes]]

    async def run(self, connection: Connection) -> None:
        """Copy the rows into the table. Raises `asyncpg.ConnectionDoesNotExistError` where the connection is lost meanwhile.

        The driver waits for ever to write more into a connection that was full when it was lost: its end is watched here.
        """
        with ending(connection) as ended:
            lost = asyncio.ensure_future(ended.wait())
            copying = asyncio.ensure_future(
                connection.copy_to_table(self.table, columns=self.columns, source=self.source(), format="binary")
            )
            # What it ends by is told once it is awaited, or nobody waits for it any more.
            copying.add_done_callback(lambda done: done.cancelled() or done.exception())
            try:
                await asyncio.wait({copying, lost}, return_when=asyncio.FIRST_COMPLETED)
                if not copying.done():
                    raise asyncpg.ConnectionDoesNotExistError("the connection was lost in the middle of a COPY")
                await copying
            finally:
                if not copying.done():
                    copying.cancel()
                    await asyncio.wait({copying, lost}, return_when=asyncio.FIRST_COMPLETED)
                lost.cancel()


class Compiled:
    """A statement that is compiled where it is made, at import, and takes its parameters by name."""

    def __init__(self, statement: Executable) -> None:
        compiled = statement.compile(dialect=_DIALECT)  # type: ignore[attr-defined]
        self._sql = str(compiled)
        self._names: Sequence[str] = compiled.positiontup or ()
        self._literals = {name: bound.value for name, bound in compiled.binds.items() if not bound.required}

    def __call__(self, **values: Any) -> Statement:
        """Return the statement with these values, which the driver is given as they are: JSON is text."""
        given = self._literals | values
        return Statement(self._sql, tuple(given[name] for name in self._names))

    def of(self, rows: Iterable[Any], get: Callable[[Any, str], Any] = getitem) -> Statement:
        """Return the statement with these rows, whose columns, which `get` reads, are the parameters: an array each."""
        every = list(rows)
        return self(**{name: [get(row, name) for row in every] for name in self._names if name not in self._literals})


class Filtered:
    """A selection that is narrowed by those of some conditions whose values are given; each set of them is compiled once.

    A condition has a parameter of its own name. `within` makes the statement of the narrowed selection.
    """

    def __init__(
        self,
        selection: Select[Any],
        *,
        within: Callable[[Select[Any]], Select[Any]] | None = None,
        **conditions: ColumnElement[bool],
    ) -> None:
        self._selection = selection
        self._within = within
        self._conditions = conditions
        self._compiled: dict[tuple[str, ...], Compiled] = {}

    def __call__(self, given: Mapping[str, Any], **values: Any) -> Statement:
        """Return the statement with these values, narrowed by what of `given` is not None."""
        names = tuple(name for name in self._conditions if given.get(name) is not None)
        found = self._compiled.get(names)
        if found is None:
            narrowed = self._selection.where(*(self._conditions[name] for name in names))
            found = self._compiled[names] = Compiled(narrowed if self._within is None else self._within(narrowed))
        return found(**values, **{name: given[name] for name in names})


def written(sql: str, values: Mapping[str, Any]) -> Statement:
    """Return a statement written as text, whose parameters are `:name`: for one that is put together when it is asked."""
    numbered, names = _numbered(sql)
    return Statement(numbered, tuple(values[name] for name in names))


@functools.lru_cache(256)
def _numbered(sql: str) -> tuple[str, tuple[str, ...]]:
    numbers: dict[str, int] = {}
    numbered = _NAMED.sub(lambda found: f"${numbers.setdefault(found[1], len(numbers) + 1)}", sql)
    return numbered, tuple(numbers)


def parameter(name: str, type_: Any = None) -> BindParameter[Any]:
    """Return a parameter of a statement; compared with a column it has the column's type."""
    return bindparam(name, type_=type_, required=True)


def given(*columns: Column[Any]) -> TableValuedAlias:
    """Return rows of these columns as they are given to a statement: a parameter each, of its name, which is an array."""
    # An array has no collation.
    kinds = {column.name: Text() if isinstance(column.type, String) else column.type for column in columns}
    arrays = (parameter(name, ARRAY(kind)) for name, kind in kinds.items())
    return func.unnest(*arrays).table_valued(*(Column(name, kind) for name, kind in kinds.items())).render_derived("given")


def inserted(table: Table, *columns: str) -> Insert:
    """Return the insertion of many rows of these columns."""
    rows = given(*(table.c[name] for name in columns))
    return insert(table).from_select(list(columns), select(*rows.c))


def overwriting(statement: Insert, *columns: str, **others: Any) -> Insert:
    """Return an insertion after which rows that were there already have these columns of the new ones, and others as given."""
    keys = [column.name for column in statement.table.primary_key]
    taken = {name: statement.excluded[name] for name in columns}
    return statement.on_conflict_do_update(index_elements=keys, set_=taken | others)
