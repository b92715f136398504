"""The checkpoint of a projection, moved in the transaction of its rows."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import asyncpg
from sqlalchemy import MetaData, func, literal_column, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared import db
from shared.db import Connection
from shared.questions.declaration import Position
from shared.statements import Compiled, Copy, Statement, parameter
from shared.tables import checkpoint_in

ELSEWHERE = "another writer has moved the checkpoint"


class CheckpointMoved(Exception):
    """Another writer has moved the checkpoint: this one must stop and read it again."""


_CHECKPOINT = checkpoint_in(MetaData())
_FRESH = insert(_CHECKPOINT).values(
    {**{name: parameter(name) for name in ("projection", "stream", "incarnation")}, "last_seq": literal_column("0")}
)
_BEGIN = Compiled(
    _FRESH.on_conflict_do_update(
        index_elements=["projection"],
        set_={"incarnation": _FRESH.excluded.incarnation, "last_seq": literal_column("0")},
        where=_CHECKPOINT.c.incarnation != _FRESH.excluded.incarnation,
    )
)
_LAST = select(_CHECKPOINT.c.last_seq).where(_CHECKPOINT.c.projection == parameter("projection"))
_COMPILED_LAST = Compiled(_LAST)


async def begin(connection: Connection, projection: str, stream: str, incarnation: str) -> int:
    """Return the sequence up to which the rows reflect a stream: 0 where its incarnation differs from theirs."""
    await _BEGIN(projection=projection, stream=stream, incarnation=incarnation).fetch(connection)
    ((last,),) = await _COMPILED_LAST(projection=projection).fetch(connection)
    return int(last)


async def stored(connection: AsyncConnection, projection: str) -> int:
    """Return the sequence of a projection's checkpoint; 0 when it has none."""
    return int((await connection.execute(_LAST, {"projection": projection})).scalar() or 0)


# A projection's name, the stream's incarnation, the sequence that the checkpoint must be at, and the one that it moves to.
Move = tuple[str, str, int, int]
_MOVE = (
    "UPDATE checkpoint SET last_seq = ${3}, updated_at = now() WHERE projection = ${0} AND incarnation = ${1} AND last_seq = ${2}"
)


async def run(connection: Connection, statements: Sequence[Statement | Copy], position: Move) -> None:
    """Run statements and move the checkpoint, all or nothing. Raises `CheckpointMoved` when it is elsewhere."""
    if len(statements) == 1 and isinstance(only := statements[0], Statement):
        # One statement is a transaction by itself, in a quarter of the round trips.
        try:
            await connection.fetchval(_with_move(only.sql, len(only.values)), *only.values, *position)
        except asyncpg.DivisionByZeroError as error:
            raise CheckpointMoved(ELSEWHERE) from error
        return
    if not statements:
        await move(connection, position)
        return
    async with connection.transaction():
        for statement in statements:
            await statement.run(connection)
        await move(connection, position)


async def move(connection: Connection, position: Move) -> None:
    """Move the checkpoint. Raises `CheckpointMoved` when it is elsewhere."""
    if await connection.execute(_MOVE.format(1, 2, 3, 4), *position) != "UPDATE 1":
        raise CheckpointMoved(ELSEWHERE)


@functools.cache
def _with_move(sql: str, values: int) -> str:
    """Return one statement that does `sql` and moves the checkpoint; it fails by a division by zero when that is elsewhere."""
    move = _MOVE.format(*range(values + 1, values + 5))
    return f"WITH moved AS ({move} RETURNING 1), changed AS ({sql}) SELECT 1 / count(*) FROM moved"  # noqa: S608 - all ours


async def position_of(engine: AsyncEngine, stream: str, *, projection: str | None = None) -> Position:
    """Return how far all projections of a schema have come in a stream, or one of them: sequence 0 when one has not begun with it.

    Pass only projections without filters: the checkpoint of a filtered one stays at its last matching message.
    The rows are on disk. Raises `Unavailable`.
    """
    of = _CHECKPOINT.c
    statement = select(
        func.min(of.incarnation).label("low"), func.max(of.incarnation).label("high"), func.min(of.last_seq).label("last")
    ).where(of.stream == stream)
    if projection is not None:
        statement = statement.where(of.projection == projection)
    async with db.transaction(engine) as connection:
        row = (await connection.execute(statement)).one()
        # Projections do not wait for the disk. This commit does, and their earlier commits reach the disk with it.
        await connection.execute(text("SELECT pg_logical_emit_message(true, 'position', '')"))
    if row.low is None or row.low != row.high:
        return Position("", 0)
    return Position(row.low, row.last)
