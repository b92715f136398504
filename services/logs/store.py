"""The archive's SQL: one method, one statement, one intention."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

import asyncpg
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    RowMapping,
    Text,
    any_,
    cast,
    delete,
    func,
    literal_column,
    null,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.dialects.postgresql import insert as insertion
from sqlalchemy.ext.asyncio import AsyncConnection

from services.logs import lexemes
from services.logs.domain import WORDED_SINCE, Digested, Row
from services.logs.tables import archive_of, checkpoint, conversion, erasure, gap, message
from shared.db import Connection
from shared.envelope import rfc3339
from shared.statements import Compiled, Statement, given, inserted, parameter

_COLUMNS = [column for column in message.c if column.name != "tsv"]
_GIVEN = given(*_COLUMNS, Column("words", Text))
_INSERT = Compiled(
    insertion(message)
    .from_select(
        [*(column.name for column in _COLUMNS), "tsv"],
        select(*(_GIVEN.c[column.name] for column in _COLUMNS), cast(_GIVEN.c.words, TSVECTOR)),
    )
    .on_conflict_do_nothing()
)
_WORKFLOWS = Compiled(
    select(message.c.run, message.c.data.op("->>")(literal_column("'workflow'")).label("workflow")).where(
        message.c.run == any_(parameter("runs", ARRAY(Text))),
        message.c.type == "run.requested",
    )
)
# The checkpoint is at 0 where what the stream still has is archived anew.
_REACHED = Compiled(
    select(
        func.greatest(
            literal_column("0"),
            select(checkpoint.c.last_seq)
            .where(checkpoint.c.projection == parameter("projection"), checkpoint.c.incarnation == parameter("incarnation"))
            .scalar_subquery(),
            select(func.max(message.c.seq))
            .where(message.c.incarnation == parameter("incarnation"), message.c.seq < parameter("before"))
            .scalar_subquery(),
        ).label("reached"),
        func.coalesce(
            select(func.max(message.c.seq)).where(message.c.incarnation == parameter("incarnation")).scalar_subquery(),
            literal_column("0"),
        ).label("highest"),
    )
)
_STORED_AT = Compiled(
    select(func.max(message.c.time)).where(
        message.c.incarnation == parameter("incarnation"), message.c.seq == parameter("seq"), message.c.line <= literal_column("0")
    )
)
_ERASED = Compiled(
    select(erasure.c.seq)
    .where(
        erasure.c.stream == parameter("stream"),
        erasure.c.incarnation == parameter("incarnation"),
        erasure.c.seq.between(parameter("first", BigInteger), parameter("last", BigInteger)),
    )
    .order_by(erasure.c.seq)
)
_INSERT_GAPS = Compiled(inserted(gap, "stream", "incarnation", "first_seq", "last_seq", "reason").on_conflict_do_nothing())
_KEY = ("time", "incarnation", "seq")
_KEYS = tuple_(message.c.incarnation, message.c.seq, message.c.time)
_CONVERTED = conversion.c.name == parameter("conversion")
_CONVERSION = Compiled(select(conversion.c.time, conversion.c.stream, conversion.c.seq).where(_CONVERTED).with_for_update())
_MOVE_CONVERSION = Compiled(
    update(conversion).where(_CONVERTED).values({name: parameter(f"to_{name}") for name in ("time", "stream", "seq")})
)
_END_CONVERSION = Compiled(delete(conversion).where(_CONVERTED))
_PLACE = tuple_(message.c.time, message.c.stream, message.c.seq)
_BEFORE = tuple_(*(parameter(name, message.c[name].type) for name in ("time", "stream", "seq")))


def _before(of: Any) -> Compiled:
    """Return the selection of messages before a place, the newest first.

    By itself, so that an index is walked from there on: joined, all that is left would be sorted each time.
    """
    return Compiled(
        select(*(message.c[name] for name in ("time", "stream", "incarnation", "seq", "key", "document")))
        .where(of, _PLACE < _BEFORE)
        .order_by(message.c.time.desc(), message.c.stream.desc(), message.c.seq.desc())
        .limit(parameter("limit"))
    )


_UNCONVERTED = {"lines": _before(message.c.line == literal_column("0")), "words": _before(message.c.line <= literal_column("0"))}


def _updated(column: str, **others: Any) -> Compiled:
    """Return the update of a column of many messages."""
    rows = given(*(message.c[name] for name in (*_KEY, column)))
    same = (message.c[name] == rows.c[name] for name in _KEY)
    return Compiled(update(message).where(*same).values({column: rows.c[column]} | others))


def _keeping_words() -> Compiled:
    rows = given(*(message.c[name] for name in _KEY), Column("words", Text))
    same = (message.c[name] == rows.c[name] for name in _KEY)
    # Their line stays, as a version before worded it.
    made = {"tsv": cast(rows.c.words, TSVECTOR), "version": literal_column(str(WORDED_SINCE - 1))}
    return Compiled(update(message).where(*same, message.c.line >= literal_column("0")).values(made))


_KEEP_WORDS = _keeping_words()
_NAME_WORKFLOWS = _updated("workflow")
_HIDE_CHUNKS = _updated("line", message=literal_column("''"), data=null(), tsv=literal_column("''"))
# Bytes of a document that are read at a time: in base64, with a row's other columns, half of the broker's largest message.
SLICE = 512 * 1024


def insert(rows: Sequence[Row]) -> Statement:
    """Insert rows; those that are there already stay as they are."""
    return _INSERT.of(rows, _value)


def _value(row: Row, column: str) -> Any:
    return lexemes.text_of(row.words) if column == "words" else getattr(row, column)


async def unsealed(connection: AsyncConnection, stream: str, last: tuple[str, int] | None, limit: int) -> list[Digested]:
    """Return the messages of `stream` that follow the one at `last`, an incarnation and a sequence, as far as they are archived.

    The messages of one incarnation come before those of the next one, and each by sequence.
    """
    reached = select(checkpoint.c.incarnation, checkpoint.c.last_seq).where(checkpoint.c.projection == archive_of(stream))
    found = (await connection.execute(reached)).one_or_none()
    if found is None:
        return []
    if last is not None:
        upto = found.last_seq if last[0] == found.incarnation else None
        rows = await _following(connection, stream, *last, upto, limit)
        if rows or last[0] == found.incarnation:
            return rows
    # The stream was made anew, or has no tree yet. An incarnation that began before the last one is not looked for.
    begun = select(message.c.incarnation).where(message.c.stream == stream).group_by(message.c.incarnation)
    if last is not None:
        before = select(func.max(message.c.time)).where(message.c.incarnation == last[0], message.c.stream == stream)
        begun = begun.having(func.min(message.c.time) > before.scalar_subquery())
    following = (await connection.execute(begun.order_by(func.min(message.c.time)).limit(1))).scalar()
    incarnation = found.incarnation if following is None else following
    return await _following(connection, stream, incarnation, 0, found.last_seq if incarnation == found.incarnation else None, limit)


async def _following(
    connection: AsyncConnection, stream: str, incarnation: str, after: int, upto: int | None, limit: int
) -> list[Digested]:
    wanted = [message.c.incarnation == incarnation, message.c.seq > after, message.c.stream == stream, message.c.line <= 0]
    if upto is not None:
        wanted.append(message.c.seq <= upto)
    columns = (message.c.incarnation, message.c.seq, message.c.time, func.sha256(message.c.document))
    rows = await connection.execute(select(*columns).where(*wanted).order_by(message.c.seq, message.c.time).limit(limit))
    return [Digested(*row) for row in rows]


async def rows_of(
    connection: AsyncConnection, stream: str, after: tuple[str, int, datetime] | None, limit: int
) -> list[RowMapping]:
    """Return the rows of a stream, as they are, by incarnation, sequence and time; of a document the first `SLICE` bytes."""
    wanted = [message.c.stream == stream]
    if after is not None:
        wanted.append(tuple_(*after) < _KEYS)
    columns = [one for one in message.c if one.name not in {"stream", "tsv", "document", "data"}]
    statement = (
        select(
            *columns,
            cast(message.c.data, Text).label("data"),
            func.substr(message.c.document, 1, SLICE).label("document"),
            func.length(message.c.document).label("size"),
        )
        .where(*wanted)
        .order_by(*_KEYS)
        .limit(limit)
    )
    return list((await connection.execute(statement)).mappings())


async def slice_of(connection: AsyncConnection, stream: str, key: tuple[str, int, datetime], start: int) -> bytes:
    """Return the `SLICE` bytes of a document from `start` on; none where it is not there, or ends before."""
    part = select(func.substr(message.c.document, start + 1, SLICE)).where(message.c.stream == stream, tuple_(*key) == _KEYS)
    return bytes((await connection.execute(part)).scalar() or b"")


async def workflows_of(connection: Connection, runs: Sequence[str]) -> dict[str, str]:
    """Return the workflows of these runs, as far as the archive knows."""
    return {row["run"]: row["workflow"] for row in await _WORKFLOWS(runs=runs).fetch(connection)}


async def unconverted(connection: Connection, name: str, limit: int) -> list[asyncpg.Record]:
    """Return the newest messages that a conversion has not come to."""
    done = await _CONVERSION(conversion=name).fetch(connection)
    if not done:
        return []
    (last,) = done
    return await _UNCONVERTED[name](time=last["time"], stream=last["stream"], seq=last["seq"], limit=limit).fetch(connection)


async def name_workflows(connection: Connection, rows: Sequence[Row]) -> None:
    """Write the workflow of messages that are archived."""
    await _NAME_WORKFLOWS.of(rows, getattr).fetch(connection)


async def hide_chunks(connection: Connection, rows: Sequence[Row]) -> None:
    """Reduce archived chunks to their form beside the rows of their lines."""
    await _HIDE_CHUNKS.of(rows, getattr).fetch(connection)


async def keep_words(connection: Connection, rows: Sequence[Row]) -> None:
    """Write what full-text search looks through of messages and lines that are archived."""
    await _KEEP_WORDS.of(rows, _value).fetch(connection)


async def move_conversion(connection: Connection, name: str, last: asyncpg.Record | None) -> str | None:
    """Record that a conversion has come to this row, or that it is over; return the time that it has come to."""
    if last is None:
        await _END_CONVERSION(conversion=name).fetch(connection)
        return None
    moved = _MOVE_CONVERSION(conversion=name, to_time=last["time"], to_stream=last["stream"], to_seq=last["seq"])
    await moved.fetch(connection)
    return rfc3339(last["time"])


async def archived_to(connection: Connection, stream: str, incarnation: str, before: int) -> tuple[int, int]:
    """Return the sequence up to which a stream is archived below `before`, and the highest; 0 where nothing of it is."""
    asked = _REACHED(projection=archive_of(stream), incarnation=incarnation, before=before)
    ((reached, highest),) = await asked.fetch(connection)
    return int(reached), int(highest)


async def stored_at(connection: Connection, incarnation: str, seq: int) -> datetime | None:
    """Return when the stream stored an archived message; None where it is not here."""
    ((time,),) = await _STORED_AT(incarnation=incarnation, seq=seq).fetch(connection)
    return time if isinstance(time, datetime) else None


def insert_gaps(gaps: Sequence[Any]) -> Statement:
    """Insert gaps; those that are there already stay as they are."""
    return _INSERT_GAPS.of(gaps, getattr)


async def unrecorded_gaps(connection: AsyncConnection, limit: int) -> list[RowMapping]:
    """Return gaps that the audit trail does not name yet."""
    statement = select(gap).where(~gap.c.recorded).order_by(gap.c.found_at, gap.c.first_seq).limit(limit)
    return list((await connection.execute(statement)).mappings())


async def mark_gap(connection: AsyncConnection, incarnation: str, stream: str, first: int) -> None:
    """Mark a gap as recorded."""
    here = (gap.c.incarnation == incarnation, gap.c.stream == stream, gap.c.first_seq == first)
    await connection.execute(update(gap).where(*here).values(recorded=True))


async def count_gaps(connection: AsyncConnection) -> list[RowMapping]:
    """Return of each stream with gaps how many messages are missing, and how many of them for no reason that is known."""
    size = gap.c.last_seq - gap.c.first_seq + 1
    lost = func.coalesce(func.sum(size).filter(gap.c.reason == "lost"), 0)
    statement = select(gap.c.stream, func.sum(size).label("messages"), lost.label("lost")).group_by(gap.c.stream)
    return list((await connection.execute(statement)).mappings())


async def claim_partitioning(connection: AsyncConnection) -> bool:
    """Return whether this transaction alone may change partitions; until its end."""
    found = await connection.execute(
        text("SELECT pg_try_advisory_xact_lock(hashtextextended('logs partitions', 0)), set_config('lock_timeout', '3s', true)")
    )
    return bool(found.scalar_one())


async def claim_copies(connection: AsyncConnection, stream: str) -> None:
    """Wait until this transaction alone may write copies of a stream's digest; until its end."""
    await connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:lock, 0))"), {"lock": f"logs copies {stream}"})


async def erased_within(connection: Connection, stream: str, incarnation: str, first: int, last: int) -> list[int]:
    """Return the sequences within a range whose messages are to be erased, or were."""
    found = await _ERASED(stream=stream, incarnation=incarnation, first=first, last=last).fetch(connection)
    return [row["seq"] for row in found]


async def partitions(connection: AsyncConnection) -> set[str]:
    """Return the names of the archive's partitions."""
    found = await connection.execute(
        text(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = CAST('message' AS regclass)"
        )
    )
    return set(found.scalars())


async def days_without_partition(connection: AsyncConnection) -> list[date]:
    """Return the days, in UTC, of the rows that the default partition holds."""
    found = await connection.execute(text("SELECT DISTINCT CAST(time AT TIME ZONE 'UTC' AS date) FROM message_default ORDER BY 1"))
    return list(found.scalars())


async def close_default(connection: AsyncConnection) -> None:
    """Lock the default partition until the end of this transaction."""
    await connection.execute(text("LOCK TABLE message_default IN ACCESS EXCLUSIVE MODE"))


async def create_day(connection: AsyncConnection, name: str) -> None:
    """Make the table of one day, not yet a partition."""
    await connection.execute(text(f'CREATE TABLE "{name}" (LIKE message INCLUDING ALL)'))


async def move_day(connection: AsyncConnection, name: str, start: datetime, end: datetime) -> None:
    """Move the rows of one day from the default partition to the day's table."""
    await connection.execute(
        text(
            "WITH moved AS (DELETE FROM message_default WHERE time >= :start AND time < :end RETURNING *)"
            f' INSERT INTO "{name}" SELECT * FROM moved'
        ),
        {"start": start, "end": end},
    )


async def attach_day(connection: AsyncConnection, name: str, start: datetime, end: datetime) -> None:
    """Make the table of one day a partition."""
    await connection.execute(
        text(f"ALTER TABLE message ATTACH PARTITION \"{name}\" FOR VALUES FROM ('{start.isoformat()}') TO ('{end.isoformat()}')")
    )
