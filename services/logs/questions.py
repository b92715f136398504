"""Answers the questions to the logs service."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import asyncpg

from services.logs import cursor, erasing, removing, selecting
from services.logs.counts import count_by_time, count_by_value
from services.logs.cursor import Order
from services.logs.digests import answers
from services.logs.items import item_of, size_of
from services.logs.scope import ArchiveDeps, looking, selected
from services.logs.tailing import tail
from shared.asking import Questions
from shared.checkpoint import position_of
from shared.envelope import rfc3339
from shared.errors import Invalid, Problem
from shared.messages import declaration_of
from shared.owners.answering import questions_of
from shared.questions import PAGE_BYTES, Position
from shared.questions.logs import (
    ArchivePosition,
    Chain,
    CountByTime,
    CountByValue,
    Link,
    LogItem,
    LogPage,
    ReadChain,
    Search,
    TailLogs,
)
from shared.runs import EFFECTS
from shared.values import moment_at

LIMIT = 1000
# Messages of a chain in one answer: each takes up to some 400 bytes.
CHAIN = 2000
CHAINED = (
    "webhook.received",
    "firing.fired",
    *(f"event.{verb}" for verb in ("accepted", "held", "routed", "filtered", "unroutable")),
    *(declaration_of(cls).type for cls, effect in EFFECTS.items() if effect.status is not None),
)


class _Page:
    """A page of a search in the making."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._room = PAGE_BYTES
        self.items: list[LogItem] = []
        self.end: asyncpg.Record | None = None
        self.more = False

    def takes(self, rows: Sequence[asyncpg.Record]) -> bool:
        """Add rows as far as there is room; returns whether there still is."""
        for row in rows:
            self._room -= size_of(row)
            if len(self.items) == self._limit or (self.items and self._room < 0):
                self.more = True
                return False
            self.items.append(item_of(row))
            self.end = row
        return True


async def search(asked: Search, deps: ArchiveDeps) -> LogPage:
    """Return a page of archived messages; it may hold fewer than `limit` when they are large, and then has a `next_cursor`."""
    order = _order(asked.order)
    limit = asked.page.limit
    if not 1 <= limit <= LIMIT:
        raise Invalid(f"limit must be from 1 to {LIMIT}", errors=(Problem("limit", f"is {limit}"),))
    query = cursor.fingerprint(
        asked.q,
        asked.org,
        str(asked.everything),
        order,
        *(text or "" for text in (asked.since, asked.until, asked.stream, asked.saved)),
    )
    since, until, after = cursor.begun(asked.page.cursor, query, since=asked.since, until=asked.until, now=deps.now())
    page = _Page(limit)
    async with looking(deps, asked.org) as connection:
        selection = await selected(asked, connection, deps)
        found = selecting.search(connection, selection, since=since, until=until, order=order, after=after, limit=limit + 1)
        async with contextlib.aclosing(found):
            async for rows in found:
                if not page.takes(rows):
                    break
    following = None
    if page.more and (end := page.end) is not None:
        following = cursor.behind(end, since=since, until=until, order=order, query=query)
    return LogPage(page.items, following)


async def read_chain(asked: ReadChain, deps: ArchiveDeps) -> Chain:
    """Return the messages of a chain; one statement."""
    limit = max(1, min(asked.limit, CHAIN))
    since = moment_at(asked.since, "since")
    async with looking(deps, asked.org) as connection:
        rows = await selecting.chain(connection, asked.org, asked.correlation_id, since, CHAINED, limit + 1, limits=deps.limits())
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


QUESTIONS: Questions = {
    **questions_of("logs"),
    **answers.QUESTIONS,
    **erasing.QUESTIONS,
    **removing.QUESTIONS,
    Search: search,
    TailLogs: tail,
    CountByTime: count_by_time,
    CountByValue: count_by_value,
    ReadChain: read_chain,
    ArchivePosition: archive_position,
}
