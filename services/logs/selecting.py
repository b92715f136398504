"""The SQL of searches, counts and tails over the rows of a selection: one function, one statement, one intention."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from services.logs.conditions import texts_of
from services.logs.cursor import After, Order
from services.logs.items import COLUMNS
from services.logs.limits import Limit, hiding
from services.logs.places import At
from services.logs.selection import Selection
from services.logs.tree import Field
from shared.db import Connection
from shared.statements import written

# What a search shows; `data` is read of lines only: a message's is in its document.
_SHOWN = ", ".join("CASE WHEN line > 0 THEN CAST(data AS text) END AS data" if name == "data" else name for name in COLUMNS)
# Rows of a search are fetched so many at a time: a page ends by its size before all have come. Those of a usual page come at once.
_FETCHED = 128
# Characters of a message's line that are shown in a tree of many.
SHOWN = 300


async def search(
    connection: Connection,
    selection: Selection,
    *,
    since: datetime,
    until: datetime,
    order: Order,
    after: After | None,
    limit: int,
) -> AsyncGenerator[list[asyncpg.Record], None]:
    """Yield the `COLUMNS` of the selected rows in the order of (time, stream, seq), some rows at a time."""
    wanted, parameters = within(selection, since, until)
    if after is not None:
        sign = "<" if order == "desc" else ">"
        wanted += f" AND (time, stream, seq) {sign} (:after_time, :after_stream, :after_seq)"
        parameters |= {"after_time": after.time, "after_stream": after.stream, "after_seq": after.seq}
    way = "DESC" if order == "desc" else "ASC"
    sql = f"SELECT {_SHOWN} FROM message WHERE {wanted} ORDER BY time {way}, stream {way}, seq {way} LIMIT :limit"
    statement = written(sql, parameters | {"limit": limit})
    if limit <= _FETCHED:
        yield await statement.fetch(connection)
        return
    async with connection.transaction():
        opened = await connection.cursor(statement.sql, *statement.values)
        while rows := await opened.fetch(_FETCHED):
            yield rows


async def plan(connection: Connection, selection: Selection, since: datetime, until: datetime) -> str:
    """Return how Postgres would go about the first page of a search."""
    wanted, parameters = within(selection, since, until)
    statement = f"EXPLAIN SELECT * FROM message WHERE {wanted} ORDER BY time DESC, stream DESC, seq DESC LIMIT 101"
    return "\n".join(row[0] for row in await written(statement, parameters).fetch(connection))


async def histogram(
    connection: Connection, selection: Selection, since: datetime, until: datetime, step: timedelta
) -> list[asyncpg.Record]:
    """Return how many of the selected rows each step of the time has, by level, in any order: `time`, `level`, `count`.

    Postgres expects about as many groups as there are times: to give them in order it would sort all rows.
    """
    wanted, parameters = within(selection, since, until)
    statement = f"""
        SELECT date_bin(:step, time, to_timestamp(0)) AS time, level, count(*) AS count
          FROM message WHERE {wanted} GROUP BY 1, 2
    """
    return await written(statement, parameters | {"step": step}).fetch(connection)


async def count(connection: Connection, selection: Selection, since: datetime, until: datetime, most: int) -> int:
    """Return how many of the selected rows there are; of more than `most` no more than that."""
    wanted, parameters = within(selection, since, until)
    statement = f"SELECT count(*) FROM (SELECT FROM message WHERE {wanted} LIMIT :most) AS found"
    ((found,),) = await written(statement, parameters | {"most": most}).fetch(connection)
    return int(found)


async def facets(
    connection: Connection,
    selection: Selection,
    fields: Sequence[Field],
    *,
    since: datetime,
    until: datetime,
    values: int,
    sample: int,
) -> list[asyncpg.Record]:
    """Return the most frequent values of each field among the newest `sample` of the selected rows: `field` (its index, -1 for
    the number of rows), `value`, `count`.
    """
    wanted, parameters = within(selection, since, until)
    columns, bound = texts_of(fields)
    names = [f"f{number}" for number in range(len(fields))]
    chosen = ", ".join(f"left({column}, :shown) AS {name}" for name, column in zip(names, columns, strict=True))
    of_field = " ".join(f"WHEN GROUPING({name}) = 0 THEN {number}" for number, name in enumerate(names))
    of_value = " ".join(f"WHEN GROUPING({name}) = 0 THEN {name}" for name in names)
    sets = ", ".join(f"({name})" for name in names)
    statement = f"""
        WITH newest AS MATERIALIZED (
                SELECT {chosen} FROM message WHERE {wanted} ORDER BY time DESC, stream DESC, seq DESC LIMIT :sample),
             counted AS (
                SELECT CASE {of_field} ELSE -1 END AS field, CASE {of_value} END AS value, count(*) AS count
                  FROM newest GROUP BY GROUPING SETS ({sets}, ())),
             ranked AS (
                SELECT field, value, count, row_number() OVER (PARTITION BY field ORDER BY count DESC, value COLLATE "C") AS rank
                  FROM counted WHERE value IS NOT NULL OR field = -1)
        SELECT field, value, count FROM ranked WHERE rank <= :values ORDER BY field, rank
    """
    given = parameters | bound | {"sample": sample, "values": values, "shown": SHOWN}
    return await written(statement, given).fetch(connection)


async def correlations_of(connection: Connection, org: str | None, runs: Collection[str]) -> dict[str, str]:
    """Return the chain, by its correlation id, of each of these runs of an organization; None: of any."""
    own = "" if org is None else " AND org = :org"
    statement = (
        f"SELECT run, min(correlation_id) AS chain FROM message WHERE run = ANY(:runs) AND type = 'run.requested'{own} GROUP BY run"
    )
    found = await written(statement, {"runs": list(runs), "org": org}).fetch(connection)
    return {row["run"]: row["chain"] for row in found}


def within(selection: Selection, since: datetime, until: datetime) -> tuple[str, dict[str, Any]]:
    """Return the condition of a selection between two times, by which partitions are passed over, and its parameters."""
    kept, limits = selection.kept(since)
    given = selection.parameters | limits | {"since": since, "until": until}
    return f"time >= :since AND time <= :until AND {kept} AND {selection.sql}", given


async def positions(connection: Connection) -> list[tuple[str, str, int]]:
    """Return each stream, its incarnation, and the sequence up to which it is archived."""
    statement = "SELECT stream, incarnation, last_seq FROM checkpoint WHERE projection LIKE 'archive-%' ORDER BY stream"
    return [(row["stream"], row["incarnation"], row["last_seq"]) for row in await connection.fetch(statement)]


async def messages(connection: Connection, incarnation: str, after: int, to: int) -> list[asyncpg.Record]:
    """Return the messages of a stream after a sequence, up to another, with their bytes: of those that were stored lately."""
    statement = """
        SELECT stream, incarnation, seq, time, key, document, workflow FROM message
         WHERE incarnation = :incarnation AND seq > :after AND seq <= :to AND line <= 0 AND time > now() - interval '8 days'
         ORDER BY seq
    """
    given = {"incarnation": incarnation, "after": after, "to": to}
    return await written(statement, given).fetch(connection)


async def between(
    connection: Connection, selection: Selection, incarnation: str, after: At, to: int, limit: int
) -> list[asyncpg.Record]:
    """Return the `COLUMNS` of the selected rows of a stream behind a place, up to a sequence, in the order of the stream."""
    kept, limits = selection.kept()
    statement = f"""
        SELECT {_SHOWN} FROM message
         WHERE incarnation = :incarnation AND (seq, line) > (:seq, :line) AND seq <= :to AND {kept} AND {selection.sql}
         ORDER BY seq, line LIMIT :limit
    """
    given = {"incarnation": incarnation, "seq": after.seq, "line": after.line, "to": to, "limit": limit}
    return await written(statement, selection.parameters | limits | given).fetch(connection)


async def chain(
    connection: Connection,
    org: str,
    correlation_id: str,
    since: datetime,
    types: Sequence[str],
    limit: int,
    *,
    limits: Sequence[Limit],
) -> list[asyncpg.Record]:
    """Return the messages of these types of a chain by time, as far as they are kept, without their documents."""
    kept, parameters = hiding(limits, org, since)
    statement = f"""
        SELECT time, type, id, causation_id, run, left(message, :shown) AS message,
               jsonb_strip_nulls(jsonb_build_object(
                   'delivery', data ->> 'delivery', 'event', data ->> 'event', 'subscription', data ->> 'subscription',
                   'requested_by', data ->> 'requested_by', 'rerun_of', data ->> 'rerun_of',
                   'resumes', data ->> 'resumes',
                   'blocked_on', data ->> 'blocked_on', 'attempt', data ->> 'attempt')) AS fields
          FROM message
         WHERE correlation_id = :correlation_id AND org = :org AND time >= :since AND type = ANY(:types) AND {kept}
         ORDER BY time, stream, seq LIMIT :limit
    """
    given = {"org": org, "correlation_id": correlation_id, "since": since, "types": list(types), "limit": limit, "shown": SHOWN}
    given |= parameters
    return await written(statement, given).fetch(connection)
