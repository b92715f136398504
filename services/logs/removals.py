"""The SQL of removing what the archive is not to keep any more."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ARRAY, BigInteger, Text, bindparam, column, delete, func, literal_column, select, table, text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.logs.domain import CATEGORY, ERASED, GAP, REMOVED
from services.logs.limits import Limit
from services.logs.lines import APART
from services.logs.tables import message, removal

# Without these the verification could not tell a removed or erased message from one that somebody deleted.
KEPT = (f"audit.{GAP}", f"audit.{REMOVED}", f"audit.{ERASED}")


class MessagePlace(NamedTuple):
    """The place of an archived message."""

    time: datetime
    incarnation: str
    seq: int


async def begun(connection: AsyncConnection, limit: Limit) -> MessagePlace | None:
    """Return up to where nothing is left that a limit does not keep; None where its organizations are others than before."""
    statement = select(removal.c.time, removal.c.incarnation, removal.c.seq).where(
        removal.c.stream == limit.stream, removal.c.org == (limit.org or ""), removal.c.others == list(limit.others)
    )
    found = (await connection.execute(statement)).one_or_none()
    return None if found is None else MessagePlace(*found)


async def note(connection: AsyncConnection, limit: Limit, place: MessagePlace) -> None:
    """Record up to where nothing is left."""
    values = {"stream": limit.stream, "org": limit.org or "", "others": list(limit.others), **place._asdict()}
    statement = insert(removal).values(values)
    await connection.execute(statement.on_conflict_do_update(index_elements=["stream", "org"], set_=values))


async def following(connection: AsyncConnection, limit: Limit, after: MessagePlace | None, most: int) -> list[MessagePlace]:
    """Return the oldest messages after a place that a limit does not keep, by time."""
    of = message.c
    wanted = [of.stream == limit.stream, of.time < limit.before, of.line <= 0]
    if limit.org is not None:
        wanted.append(of.org == limit.org)
    elif limit.others:
        wanted.append(of.org.not_in(limit.others))
    if limit.stream == "AUDIT":
        wanted.append(~(of.type.in_(KEPT) & (of.key == CATEGORY)))
    if after is not None:
        # The first is what partitions are chosen by.
        wanted += [of.time >= after.time, tuple_(of.time, of.incarnation, of.seq) > tuple_(*after)]
    order = (of.time, of.incarnation, of.seq)
    return [MessagePlace(*row) for row in await connection.execute(select(*order).where(*wanted).order_by(*order).limit(most))]


async def remove(connection: AsyncConnection, stream: str, places: Sequence[MessagePlace]) -> int:
    """Delete messages with the rows of their lines; return how many rows."""
    given = (
        func.unnest(
            bindparam("incarnations", [one.incarnation for one in places], ARRAY(Text)),
            bindparam("seqs", [one.seq for one in places], ARRAY(BigInteger)),
        )
        .table_valued(column("incarnation", Text), column("seq", BigInteger))
        .render_derived("given")
    )
    of = message.c
    # Lines have times of their own, beside that of their chunk.
    first, last = min(one.time for one in places), max(one.time for one in places)
    around = timedelta(seconds=1) + APART
    statement = delete(message).where(
        of.incarnation == given.c.incarnation,
        of.seq == given.c.seq,
        of.stream == stream,
        of.time.between(first - around, last + around),
    )
    return int((await connection.execute(statement)).rowcount)


async def drop(connection: AsyncConnection, name: str) -> bool:
    """Detach and drop a partition in which nothing is left; False where something is."""
    # No row may come between the look and the end.
    await connection.execute(text(f'LOCK TABLE message, "{name}" IN ACCESS EXCLUSIVE MODE'))
    if not await is_empty(connection, name):
        return False
    await connection.execute(text(f'ALTER TABLE message DETACH PARTITION "{name}"'))
    await connection.execute(text(f'DROP TABLE "{name}"'))
    return True


async def is_empty(connection: AsyncConnection, name: str) -> bool:
    """Return whether a partition has no row now; takes no lock that anybody waits for."""
    return (await connection.execute(select(literal_column("1")).select_from(table(name)).limit(1))).first() is None
