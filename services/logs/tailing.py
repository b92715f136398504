"""Answers what has come since a place: from the feed, and what is no longer there from the archive."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import msgspec

from services.logs import places, selecting
from services.logs.digests.keeping import Digests
from services.logs.erasing import ErasingDeps
from services.logs.feed import Feed
from services.logs.items import item_of, item_of_row, size_of
from services.logs.places import At, TailPlace
from services.logs.scope import looking, named, selected
from services.logs.selection import Selection
from services.logs.tree import runs_asked_for
from shared.bounded import SharedPlaces
from shared.db import Connection
from shared.errors import Unavailable
from shared.owners.keeper import Keeper
from shared.questions import PAGE_BYTES
from shared.questions.logs import LogItem, TailItem, TailLogs, TailPage

# Of one answer: rows, and seconds in which messages are looked at. What is asked of each is a query of somebody's.
ITEMS = 500
LOOKS_FOR = 0.2
# Seconds after which others go on in between.
SLICE = 0.005
# Answers that look at messages at a time, of one organization and in all: more would be no faster, and only others' slower.
EACH, PLACES = 2, 4
# Messages of a stream that a reader may be behind what is here, and is still given from the archive; of more it is told the number.
BEHIND = 50_000
# Places of readers whose number in the feed is remembered.
REMEMBERED = 1000
# Seconds that a look at the archive may take: nobody waits longer for what is new.
SECONDS = 3.0


class LogsDeps(ErasingDeps, frozen=True, kw_only=True):
    """Dependencies of all answers; `numbers` holds the number in the feed of each place that was given out lately."""

    feed: Feed
    numbers: OrderedDict[str, int]
    keepers: Mapping[str, Keeper[Any]]
    digests: Digests
    looking_at: SharedPlaces = msgspec.field(default_factory=lambda: SharedPlaces(EACH, PLACES))


class _Page:
    """An answer in the making, and the place behind it."""

    def __init__(self, place: TailPlace) -> None:
        self.place = place
        self.items: list[TailItem] = []
        self.dropped = 0
        self.room = PAGE_BYTES

    @property
    def is_full(self) -> bool:
        return len(self.items) >= ITEMS or self.room <= 0

    def add(self, item: LogItem, size: int, at: At) -> None:
        self.place = self.place.moved(item.stream, at)
        self.items.append(TailItem(places.written(self.place), item))
        self.room -= size


async def tail(asked: TailLogs, deps: LogsDeps) -> TailPage:
    """Return the messages behind a place, as far as an answer has room; at first the place that is now."""
    feed = deps.feed
    await feed.wanted()
    place = None if asked.position is None else places.read(asked.position, feed.incarnations)
    page = _Page(feed.here if place is None else place)
    selection = named(asked, deps.limits())
    if _is_behind(page.place, feed) or asked.saved is not None or runs_asked_for(selection.tree):
        async with looking(deps, asked.org, SECONDS) as connection:
            selection = await selected(asked, connection, deps)
            await _catch_up(page, feed, selection, connection)
    if place is None:
        return TailPage(items=[], position=places.written(page.place), dropped=0, more=False)
    number, more = deps.numbers.get(asked.position or "", 0), True
    if not page.is_full and not _is_behind(page.place, feed):
        try:
            async with deps.looking_at.turn(asked.org, SECONDS):
                number, more = await _take(page, feed, selection, number)
        except TimeoutError as error:
            raise Unavailable(f"the organization {asked.org} has too many tails that have much to look at") from error
    position = places.written(page.place)
    deps.numbers[position] = number
    while len(deps.numbers) > REMEMBERED:
        deps.numbers.popitem(last=False)
    return TailPage(items=page.items, position=position, dropped=page.dropped, more=more)


def _is_behind(place: TailPlace, feed: Feed) -> bool:
    return any(at.seq < feed.floor.get(stream, 0) for stream, at in place.at.items())


async def _catch_up(page: _Page, feed: Feed, selection: Selection, connection: Connection) -> None:
    """Add what is no longer here; what is too much is counted and passed over."""
    for stream, at in list(page.place.at.items()):
        floor = feed.floor.get(stream, 0)
        if at.seq >= floor or page.is_full:
            continue
        behind = floor - at.seq
        if behind > BEHIND:
            page.dropped += behind
            page.place = page.place.moved(stream, At(floor))
            continue
        room = ITEMS - len(page.items)
        found = await selecting.between(connection, selection, feed.incarnations[stream], at, floor, room)
        for row in found:
            page.add(item_of(row), size_of(row), At(row["seq"], row["line"]))
            if page.is_full:
                return
        page.place = page.place.moved(stream, At(floor))


async def _take(page: _Page, feed: Feed, selection: Selection, number: int) -> tuple[int, bool]:
    """Add what is here behind the place; returns the number of the first message that is left, and whether there is one."""
    arrived = feed.after(number)
    end = feed.end
    number = end - len(arrived)
    spent, since = 0.0, time.perf_counter()
    for looked_at, one in enumerate(arrived):
        taken = time.perf_counter() - since
        if page.is_full or (looked_at and spent + taken > LOOKS_FOR):
            return number + looked_at, True
        if taken > SLICE:
            await asyncio.sleep(0)
            spent, since = spent + taken, time.perf_counter()
        at = page.place.at[one.stream]
        if one.seq < at.seq or (one.seq == at.seq and not at.line):
            continue
        for seen in one.rows:
            row = seen.row
            if one.seq == at.seq and row.line <= at.line:
                continue
            if page.is_full:
                return number + looked_at, True
            if selection.holds(seen):
                page.add(item_of_row(row), len(row.document) + len(row.message) + len(row.data or ""), At(one.seq, row.line))
        page.place = page.place.moved(one.stream, At(one.seq))
    return end, False
