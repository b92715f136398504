"""A service's stores, looked at every few seconds: how far its projections are behind, and whether its database answers.

Both are facts of `/readyz`, and so metrics. A writer that stands still could not tell: it knows nothing of what it does not read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog
from nats.aio.client import Client
from sqlalchemy import text
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine

from shared import db
from shared.errors import Unavailable
from shared.health import Health
from shared.pull import NO_MESSAGE, StreamError, api_request
from shared.streams import STREAMS

# Seconds between two looks, and between two at the database's size, for which it looks at each of its files.
EVERY = 5.0
SIZE_EVERY = 60.0
_OWNED = frozenset(stream.name for stream in STREAMS if stream.owned)

_log = structlog.get_logger()


class Observed(Protocol):
    """The writer of a projection: its rows reflect `stream` up to `position`; -1 while another replica writes, or none does yet."""

    name: str
    stream: str

    @property
    def position(self) -> int:
        """Return the sequence."""


class Observer:
    """Looks at the stores. In a stream where each service sees its own messages alone (TIMERS) it cannot see the lag."""

    def __init__(
        self,
        client: Client,
        engine: AsyncEngine,
        writers: Mapping[str, Observed],
        filters: Mapping[str, Sequence[str]],
        health: Health,
    ) -> None:
        """Observe `writers`, whose subjects in their streams `filters` has by the same names (none: all)."""
        self._client = client
        self._engine = engine
        self._writers = [writer for writer in writers.values() if writer.stream not in _OWNED]
        self._filters = filters
        self._messages: dict[str, int] = {}
        self._since: dict[str, datetime | None] = {}
        # Sequences up to which a stream has nothing for a projection behind its position.
        self._clear: dict[str, int] = {}
        self._up = False
        self._size: int | None = None
        self._sized_at = float("-inf")
        health.state("projection_lag", self._lag, labels=dict.fromkeys(("messages", "age_s"), "projection"))
        health.state("database", self._database, counters=("statement_timeouts",))

    async def watch(self) -> None:
        """Look for ever."""
        while True:
            try:
                await self.look()
            except Exception:
                _log.exception("stores.not_looked_at")
            await asyncio.sleep(EVERY)  # neither store tells of it

    async def look(self) -> None:
        """Look once."""
        await asyncio.gather(self._look_at_database(), self._look_at_streams())

    def _lag(self) -> dict[str, Any]:
        now = datetime.now(UTC)
        ages = {
            name: 0.0 if since is None else round(max(0.0, (now - since).total_seconds()), 3) for name, since in self._since.items()
        }
        return {"messages": dict(self._messages), "age_s": ages}

    def _database(self) -> dict[str, Any]:
        return {"up": self._up, "size_bytes": self._size, "statement_timeouts": db.TROUBLE["statement_timeouts"]}

    async def _look_at_database(self) -> None:
        now = asyncio.get_running_loop().time()
        sizes = now - self._sized_at >= SIZE_EVERY
        try:
            async with db.transaction(self._engine) as connection:
                statement = "SELECT pg_database_size(current_database())" if sizes else "SELECT 1"
                found = (await connection.execute(text(statement))).scalar()
        except Unavailable as error:
            # A pool without a free connection says nothing of the database.
            self._up = self._up and isinstance(error.__cause__, PoolTimeout)
            return
        self._up = True
        if sizes:
            self._size, self._sized_at = found, now

    async def _look_at_streams(self) -> None:
        last: dict[str, int] = {}
        for writer in self._writers:
            position = writer.position
            if position < 0:
                self._messages.pop(writer.name, None)
                self._since.pop(writer.name, None)
                continue
            try:
                if writer.stream not in last:
                    info = await api_request(self._client, f"$JS.API.STREAM.INFO.{writer.stream}", None)
                    last[writer.stream] = int(info["state"]["last_seq"])
                since = await self._first_behind(writer, position, last[writer.stream])
            except (Unavailable, StreamError):
                continue  # what was found last grows older
            self._since[writer.name] = since
            self._messages[writer.name] = 0 if since is None else last[writer.stream] - position

    async def _first_behind(self, writer: Observed, position: int, last: int) -> datetime | None:
        """Return when the first message was stored that a projection has still to take; None when there is none."""
        after = max(position, self._clear.get(writer.name, 0))
        if after > last:
            after = position  # the stream was made anew
        if after == last:
            return None
        found: list[tuple[int, datetime]] = []
        for subject in self._filters[writer.name] or (">",):
            asked = {"seq": after + 1, "next_by_subj": subject}
            try:
                message = (await api_request(self._client, f"$JS.API.STREAM.MSG.GET.{writer.stream}", asked))["message"]
            except StreamError as error:
                if error.code != NO_MESSAGE:
                    raise
                continue
            found.append((int(message["seq"]), datetime.fromisoformat(message["time"])))
        if not found:
            self._clear[writer.name] = last
            return None
        return min(found)[1]
