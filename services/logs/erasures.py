"""The SQL of erasing: which messages a search means, which are under way, and what is left of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import RowMapping, delete, func, literal_column, null, or_, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.logs import selecting
from services.logs.cursor import After
from services.logs.lines import APART
from services.logs.selection import Selection
from services.logs.tables import erasure, message
from shared.runs import RUN_STREAMS

# The line that is shown in place of what was erased.
ERASED = "erased"
# The fields of messages that name blobs, by bucket.
BODIES, RESULTS = ("body_ref", "data_ref", "input_ref"), ("result_ref",)
# No bucket keeps a blob longer.
_KEPT = timedelta(days=31)
_M, _E = message.c, erasure.c
_PLACE = tuple_(_M.incarnation, _M.seq)


def _text(name: str) -> Any:
    """Return a field of the data, as text, as a column of that name."""
    return _M.data.op("->>")(literal_column(f"'{name}'")).label(name)


async def matching(
    connection: AsyncConnection, selection: Selection, since: datetime, until: datetime, after: After | None, limit: int
) -> list[RowMapping]:
    """Return the place and time of rows, lines among them, that a search selects, oldest first, and that are not erased."""
    wanted, given = selecting.within(selection, since, until)
    if after is not None:
        wanted += " AND (time, stream, seq) > (:after_time, :after_stream, :after_seq)"
        given |= {"after_time": after.time, "after_stream": after.stream, "after_seq": after.seq}
    statement = f"""
        SELECT time, stream, incarnation, seq FROM message
         WHERE {wanted} AND (incarnation, seq) NOT IN (SELECT incarnation, seq FROM erasure WHERE done)
         ORDER BY time, stream, seq LIMIT :limit
    """
    return list((await connection.execute(text(statement), given | {"limit": limit})).mappings())


async def messages(connection: AsyncConnection, found: Sequence[RowMapping]) -> list[RowMapping]:
    """Return the messages at these places, each once, whose lines they may be: what they are, whose, and the blobs they name."""
    if not found:
        return []
    times = [row["time"] for row in found]
    statement = select(
        *(_M[name] for name in ("stream", "incarnation", "seq", "time", "org", "type", "id", "run")),
        _text("delivery"),
        *(_text(name) for name in (*BODIES, *RESULTS)),
    ).where(
        _PLACE.in_({(row["incarnation"], row["seq"]) for row in found}),
        _M.time.between(min(times) - APART, max(times) + APART),
        _M.line <= 0,
    )
    return list((await connection.execute(statement.order_by(_M.stream, _M.incarnation, _M.seq))).mappings())


async def begin(connection: AsyncConnection, wanted: Sequence[dict[str, Any]]) -> None:
    """Record messages that are to be erased; those that are recorded stay as they are."""
    await connection.execute(insert(erasure).on_conflict_do_nothing(), list(wanted))


async def undone(connection: AsyncConnection, limit: int, places: Collection[tuple[str, int]] | None = None) -> list[RowMapping]:
    """Return messages whose erasing was begun and not ended, or those of them at these places; by stream and incarnation.

    Of more than `limit` those come first that nobody has taken, then any: a copy may keep for ever what is said of the others.
    """
    statement = select(erasure).where(~_E.done)
    if places is not None:
        statement = statement.where(tuple_(_E.incarnation, _E.seq).in_(places))
    found = (await connection.execute(statement.order_by(_E.taken, func.random()).limit(limit))).mappings().all()
    return sorted(found, key=lambda row: (row["stream"], row["incarnation"], row["seq"]))


async def keep(connection: AsyncConnection, incarnation: str, seqs: Collection[int]) -> None:
    """Forget that messages were to be erased: they are needed."""
    await connection.execute(delete(erasure).where(_E.incarnation == incarnation, _E.seq.in_(seqs), ~_E.taken))


async def mark(connection: AsyncConnection, incarnation: str, seqs: Collection[int], **done: bool) -> None:
    """Record how far the erasing of messages has come."""
    await connection.execute(update(erasure).where(_E.incarnation == incarnation, _E.seq.in_(seqs)).values(**done))


async def blank(connection: AsyncConnection, stream: str, incarnation: str, rows: Sequence[RowMapping]) -> None:
    """Leave of archived messages only what says where they were, and whose; remove their lines."""
    seqs, times = [row["seq"] for row in rows], [row["time"] for row in rows]
    # Lines have times of their own, beside that of their chunk.
    around = _M.time.between(min(times) - APART, max(times) + APART)
    here = (_M.stream == stream, _M.incarnation == incarnation, _M.seq.in_(seqs), around)
    await connection.execute(delete(message).where(*here, _M.line > 0))
    nothing = {"document": b"", "data": null(), "message": ERASED, "tsv": literal_column("''")}
    await connection.execute(update(message).where(*here).values(nothing))


async def still_named(connection: AsyncConnection, blobs: Collection[str]) -> set[str]:
    """Return those of these blobs that a message names which is not to be erased: equal contents are one blob."""
    if not blobs:
        return set()
    fields = [_text(name) for name in (*BODIES, *RESULTS)]
    erased = select(_E.incarnation, _E.seq)
    statement = select(*fields).where(
        _M.time > func.now() - _KEPT,
        _M.line <= 0,
        _M.stream.in_(("WEBHOOKS", "EVENTS", *RUN_STREAMS)),
        or_(*(field.element.in_(blobs) for field in fields)),
        _PLACE.not_in(erased),
    )
    return {ref for row in await connection.execute(statement) for ref in row if ref in blobs}
