"""Answers the questions to the logs service."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import RowMapping
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from services.logs import cursor, store, times
from services.logs.conditions import Condition
from services.logs.cursor import Cursor, Order
from services.logs.digests import answers
from services.logs.digests.keeping import Digests
from services.logs.domain import data_of
from services.logs.query import parse
from shared.asking import Questions
from shared.checkpoint import position_of
from shared.db import transaction
from shared.envelope import rfc3339
from shared.errors import Invalid, Problem, Unavailable
from shared.messages import declaration_of
from shared.questions import PAGE_BYTES, Position
from shared.questions.logs import ArchivePosition, Chain, Link, LogItem, LogPage, ReadChain, Search
from shared.runs import EFFECTS
from shared.values import moment_at

LIMIT = 1000
# Below the time that the asker waits, so that the answer is a reason and not a silence.
SECONDS = 20.0
# A line of a person's screen is never longer; the data holds the rest.
MESSAGE_CHARACTERS = 64 * 1024
# Messages of a chain in one answer: each takes up to some 400 bytes.
CHAIN = 2000
CHAINED = (
    "webhook.received",
    "firing.fired",
    *(f"event.{verb}" for verb in ("accepted", "held", "routed", "filtered", "unroutable")),
    *(declaration_of(cls).type for cls, effect in EFFECTS.items() if effect.status is not None),
)
_CANCELED = "57014"  # query_canceled: here, by the statement's time-out


class ArchiveDeps(msgspec.Struct, frozen=True):
    """Dependencies of the answers."""

    engine: AsyncEngine
    now: Callable[[], datetime]
    digests: Digests


async def search(asked: Search, deps: ArchiveDeps) -> LogPage:
    """Return a page of archived messages; it may hold fewer than `limit` when they are large, and then has a `next_cursor`."""
    order = _order(asked.order)
    limit = asked.page.limit
    if not 1 <= limit <= LIMIT:
        raise Invalid(f"limit must be from 1 to {LIMIT}", errors=(Problem("limit", f"is {limit}"),))
    condition = Condition(parse(asked.q))
    query = cursor.fingerprint(asked.q, asked.org, str(asked.everything), order, asked.since or "", asked.until or "")
    if asked.page.cursor is None:
        since, until = times.span(asked.since, asked.until, deps.now())
        after = None
    else:
        last = cursor.read(asked.page.cursor, query)
        since, until = cursor.moment(last.since), cursor.moment(last.until)
        after = store.After(cursor.moment(last.time), last.stream, last.seq)
    items: list[LogItem] = []
    room = PAGE_BYTES
    more = False
    try:
        async with transaction(deps.engine) as connection:
            await store.limit_duration(connection, SECONDS)
            rows = store.search(
                connection,
                condition,
                org=None if asked.everything else asked.org,
                since=since,
                until=until,
                order=order,
                after=after,
                limit=limit + 1,
            )
            async with contextlib.aclosing(rows):
                async for found in rows:
                    size = len(found["document"]) + len(found["data"] or "") + min(len(found["message"]), MESSAGE_CHARACTERS)
                    if len(items) == limit or (items and size > room):
                        more = True
                        break
                    room -= size
                    items.append(_item(found))
                    after = store.After(found["time"], found["stream"], found["seq"])
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == _CANCELED:
            raise Unavailable(f"the search took longer than {SECONDS:.0f} s: narrow the range of times") from error
        raise
    following = None
    if more and after is not None:
        following = cursor.written(
            Cursor(
                time=cursor.microseconds(after.time),
                stream=after.stream,
                seq=after.seq,
                since=cursor.microseconds(since),
                until=cursor.microseconds(until),
                order=order,
                query=query,
            )
        )
    return LogPage(items, following)


async def read_chain(asked: ReadChain, deps: ArchiveDeps) -> Chain:
    """Return the messages of a chain; one statement."""
    limit = max(1, min(asked.limit, CHAIN))
    since = moment_at(asked.since, "since")
    async with transaction(deps.engine) as connection:
        await store.limit_duration(connection, SECONDS)
        rows = await store.chain(connection, asked.org, asked.correlation_id, since, CHAINED, limit + 1)
    items = [Link(**{**row, "time": rfc3339(row["time"])}) for row in rows[:limit]]
    return Chain(items, cut=len(rows) > limit)


async def archive_position(asked: ArchivePosition, deps: ArchiveDeps) -> Position:
    """Return how far the archive of a stream has come."""
    return await position_of(deps.engine, asked.stream)


def _order(name: str) -> Order:
    if name == "asc":
        return "asc"
    if name == "desc":
        return "desc"
    raise Invalid("order must be asc or desc", errors=(Problem("order", "is neither"),))


def _item(found: RowMapping) -> LogItem:
    is_line = found["line"] > 0
    line: dict[str, Any] = msgspec.json.decode(found["data"] or "{}") if is_line else {}
    shown = dict(found)
    document = shown.pop("document")
    data: Any = line if is_line else data_of(document)
    if len(document) > PAGE_BYTES:
        data = {"omitted": f"{len(document)} bytes are more than an answer holds"}
    shown |= {
        "time": rfc3339(found["time"]),
        "message": found["message"][:MESSAGE_CHARACTERS],
        "data": data,
        "line": found["line"] if is_line else None,
    }
    return LogItem(**shown, attempt=line.get("attempt"), fields=line.get("fields") or {})


QUESTIONS: Questions = {Search: search, ReadChain: read_chain, ArchivePosition: archive_position, **answers.QUESTIONS}
