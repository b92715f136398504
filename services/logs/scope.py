"""What a question is about: the rows of its organization that its query selects, and the time that it covers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any

import asyncpg
import msgspec
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from services.logs import alert_rows, selecting
from services.logs.limits import Limit
from services.logs.query import parse
from services.logs.selection import Selection
from services.logs.tree import And, Column, Equals, resolved, runs_asked_for
from shared.bounded import SharedPlaces
from shared.db import Connection, open_engine, reading
from shared.errors import NotFound, Unavailable
from shared.questions.logs import OfRows

# Below the time that the asker waits, so that the answer is a reason and not a silence.
SECONDS = 20.0
# Searches at a time, of one organization and in all: each has a connection, which the archive's writers are not to wait for.
EACH, PLACES = 4, 8
# Seconds that one waits for its turn.
WAITS = 8.0
# For them, for what counts alerts, and for what follows the archive.
CONNECTIONS = 16


class ArchiveDeps(msgspec.Struct, frozen=True):
    """Dependencies of the answers.

    `engine` is one of `open_archive`, `limits` are those of what is kept, `places` is where organizations wait for their turn.
    """

    engine: AsyncEngine
    now: Callable[[], datetime]
    limits: Callable[[], Sequence[Limit]] = tuple
    places: SharedPlaces = msgspec.field(default_factory=lambda: SharedPlaces(EACH, PLACES))


def open_archive(url: str, registry: CollectorRegistry | None = None) -> AsyncEngine:
    """Return an engine whose statements take `SECONDS` at most, and are planned for the values that they have.

    A plan for any values reads by time what only a rare word finds: the driver keeps statements, and Postgres would keep such one.
    """
    settings = {"statement_timeout": str(int(SECONDS * 1000)), "plan_cache_mode": "force_custom_plan"}
    return open_engine(url, service="logs", pool="searches", pool_size=CONNECTIONS, registry=registry, settings=settings)


@contextlib.asynccontextmanager
async def looking(deps: ArchiveDeps, org: str, seconds: float | None = None) -> AsyncIterator[Connection]:
    """Give a connection whose statements take so long at most, or `SECONDS`, once it is the organization's turn.

    Raises `Unavailable` where either takes longer.
    """
    try:
        async with deps.places.turn(org, WAITS), _connection(deps, seconds) as connection:
            yield connection
    except TimeoutError as error:
        raise Unavailable(f"the organization {org} has too many searches under way") from error


@contextlib.asynccontextmanager
async def _connection(deps: ArchiveDeps, seconds: float | None) -> AsyncIterator[Connection]:
    try:
        async with reading(deps.engine) as connection:
            if seconds is None:
                yield connection
            else:
                async with connection.transaction():
                    await connection.execute(f"SET LOCAL statement_timeout = {int(seconds * 1000)}")
                    yield connection
    except asyncpg.QueryCanceledError as error:
        most = SECONDS if seconds is None else seconds
        raise Unavailable(f"the search took longer than {most:.0f} s: narrow the range of times") from error


def named(asked: OfRows[Any], limits: Sequence[Limit] = ()) -> Selection:
    """Return the rows that a question is about; it may name chains by their runs. Raises `Invalid` with the place of a mistake."""
    tree = parse(asked.q)
    if asked.stream is not None:
        tree = And((Equals(Column("stream"), asked.stream), tree))
    return Selection(None if asked.everything else asked.org, tree, limits)


async def selected(asked: OfRows[Any], connection: Connection, deps: ArchiveDeps) -> Selection:
    """Return the rows that a question is about, with the chains and the saved search that it names looked up.

    Raises as `named`, and `NotFound`.
    """
    selection = named(asked, deps.limits())
    if asked.saved is not None:
        saved = await alert_rows.query_of(connection, asked.org, asked.saved)
        if saved is None:
            raise NotFound(f"there is no search {asked.saved!r}")
        selection = Selection(selection.org, And((parse(saved), selection.tree)), selection.limits)
    runs = runs_asked_for(selection.tree)
    if not runs:
        return selection
    chains = await selecting.correlations_of(connection, selection.org, runs)
    return Selection(selection.org, resolved(selection.tree, chains), selection.limits)
