"""Every stream into the archive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import asyncpg
import structlog
from nats.aio.client import Client

from services.logs import store
from services.logs.copying import copy
from services.logs.domain import UNDECODABLE, Row, StreamPosition, row_of, undecodable
from services.logs.gaps import GapFinder
from services.logs.lines import bare, split
from services.logs.subscribers.telling import Telling
from services.logs.tables import archive_of
from services.logs.workflows import RunWorkflows
from shared.db import Connection
from shared.owners.catalog import catalog_of
from shared.projected import Apply, Keep, Projected
from shared.pull import Delivered
from shared.runs import END_TYPES, RUN_STREAMS
from shared.salvage import is_passing
from shared.statements import Copy, Statement
from shared.streams import STREAMS

# check_violation: a partition was attached while the rows were on their way to the default one. The next try finds it.
_MOVED = "23514"
# Messages that are written together.
BATCH = 4000
# Rows of an INSERT: beyond it the rate does not rise, and a bad row costs more to find.
ROWS = 1000
# Messages from which on they are copied: it takes half of the time, some more round trips, and rows of which none is there.
COPIED = 100
# Seconds in which messages are written together. A reader may be looking for a run's end; for other searches it is soon
# enough, and one transaction for a chain's messages costs as much as one for each message did.
LINGER = 0.02

_log = structlog.get_logger()


def archiving(stream: str, finder: GapFinder, telling: Telling | None = None) -> Apply:
    """Return the `Apply` that archives `stream`: every message becomes a row, and every line of a chunk another.

    Subscribers are told of it by `telling`.
    """
    workflows = RunWorkflows()

    async def apply(batch: Sequence[Delivered], incarnation: str, connection: Connection) -> list[Statement | Copy]:
        if telling is not None:
            await telling.tell(stream, batch, incarnation)
        missing = await finder.before(batch, incarnation, connection)
        made = _rows(stream, batch, incarnation)
        is_copied = len(batch) >= COPIED and finder.are_new(batch)
        if is_copied and stream not in RUN_STREAMS:
            return [*missing, copy(made)]
        rows = await workflows.named(list(made), connection)
        if is_copied:
            return [*missing, copy(rows)]
        return [*missing, *(store.insert(rows[start : start + ROWS]) for start in range(0, len(rows), ROWS))]

    return apply


def keeping(stream: str, finder: GapFinder) -> Keep:
    """Return the `Keep` of `stream`: only the bytes of a row that Postgres refuses."""

    async def keep(one: Delivered, incarnation: str, connection: Connection) -> None:
        try:
            rows = list(_rows(stream, [one], incarnation))
        except Exception as error:
            _log.warning("archive.unreadable", stream=stream, sequence=one.sequence, reason=f"{type(error).__name__}: {error}")
            rows = [undecodable(_position(stream, one, incarnation), one.data)]
        for statement in await finder.before([one], incarnation, connection):
            await statement.fetch(connection)
        await salvaged(connection, rows)

    return keep


async def salvaged(connection: Connection, rows: Sequence[Row]) -> None:
    """Insert rows, within a transaction of the caller's; of those that Postgres refuses the bytes alone."""
    for start in range(0, len(rows), ROWS):
        await _salvage(connection, rows[start : start + ROWS])


def _rows(stream: str, batch: Sequence[Delivered], incarnation: str) -> Iterator[Row]:
    for one in batch:
        yield from split(row_of(_position(stream, one, incarnation), one.data))


def _position(stream: str, one: Delivered, incarnation: str) -> StreamPosition:
    return StreamPosition(stream, incarnation, one.sequence, one.time, one.subject)


async def _salvage(connection: Connection, rows: Sequence[Row]) -> None:
    """Insert all; where Postgres refuses, find the row by halving and keep its bytes alone."""
    statement = store.insert(rows)
    try:
        async with connection.transaction():
            await connection.execute(statement.sql, *statement.values)
    except asyncpg.PostgresError as error:
        if error.sqlstate == _MOVED:
            await connection.execute(statement.sql, *statement.values)
            return
        if is_passing(error):
            raise
        if len(rows) > 1:
            middle = len(rows) // 2
            await _salvage(connection, rows[:middle])
            await _salvage(connection, rows[middle:])
            return
        row = rows[0]
        if row.type == UNDECODABLE:
            raise
        _log.warning("archive.row_refused", stream=row.stream, sequence=row.seq, type=row.type, reason=str(error))
        position = StreamPosition(row.stream, row.incarnation, row.seq, row.time, row.key)
        kept = store.insert([bare(row) if row.line > 0 else undecodable(position, row.document)])
        await connection.execute(kept.sql, *kept.values)


def projected(client: Client, telling: Telling | None = None) -> list[Projected]:
    """Return the archive of every stream, and saved searches; subscribers are told of what is archived by `telling`.

    Archived rows older than the stream's first message are only here and not replayed.
    """
    return [catalog_of("logs", client), *_archives(client, telling)]


def _archives(client: Client, telling: Telling | None) -> list[Projected]:
    finders = {stream.name: GapFinder(stream.name, client) for stream in STREAMS}
    return [
        Projected(
            name=archive_of(stream.name),
            stream=stream.name,
            apply=archiving(stream.name, finders[stream.name], telling),
            keep=keeping(stream.name, finders[stream.name]),
            linger=LINGER,
            prompt=END_TYPES if stream.name in RUN_STREAMS else frozenset(),
            tables=("message",),
            # What was erased is not on the bus, and stays.
            rows="stream = :stream AND incarnation = :incarnation AND seq >= :first"
            " AND (incarnation, seq) NOT IN (SELECT incarnation, seq FROM logs.erasure)",
            batch=BATCH,
        )
        for stream in STREAMS
    ]
