"""Has looks taken at groups: some at a time, in turns of the organizations, none of which has all places.

A group that waits for events of others to come is not looked at again and again: its source is asked about, ever more rarely.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import NamedTuple

import structlog

from shared import tasks
from shared.bounded import BoundedTasks, CappedTurns
from shared.errors import MillraceError

# Looks at the same time, in all and of one organization: each has a connection to the database, of a pool that questions share.
AT_ONCE, EACH = 4, 2
# Seconds until a source is asked about, where groups wait for what it received before; twice as long each time, to the second.
SOON, RAREST = 0.1, 2.0
_log = structlog.get_logger()


class Look(NamedTuple):
    """A look that is to be taken at a group of an organization; `at` is the time by a timer."""

    org: str
    group: str
    at: datetime | None = None


class GroupLooks:
    """Takes looks by `look`, one at a time of a group: all that are offered meanwhile are one more.

    `settled_before` returns from when on a source may still have events to be held, None where it has none.
    """

    def __init__(
        self, look: Callable[[Look], Awaitable[None]], settled_before: Callable[[str], Awaitable[datetime | None]]
    ) -> None:
        self._look = look
        self._settled_before = settled_before
        self._queue: CappedTurns[Look] = CappedTurns(lambda one: one.org, EACH, AT_ONCE)
        self._taking = BoundedTasks(self._take, AT_ONCE, self._queue)
        self._waiting: dict[str, Look] = {}
        self._under_way: set[str] = set()
        # By source: the groups that wait for what it received before their first event, and the pause until it is asked about.
        self._unsettled: dict[str, dict[str, tuple[Look, datetime]]] = {}
        self._pauses: dict[str, float] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}

    def offer(self, look: Look) -> None:
        """Have a look taken when its turn comes."""
        before = self._waiting.get(look.group)
        times = [one.at for one in (before, look) if one is not None and one.at is not None]
        self._waiting[look.group] = look._replace(at=max(times, default=None))
        if before is None and look.group not in self._under_way:
            self._taking.offer(look)

    def wait_for(self, source: str, look: Look, received_at: datetime) -> None:
        """Have a look taken once no event of a source that was received before can come any more."""
        self._unsettled.setdefault(source, {})[look.group] = look, received_at
        if source not in self._asking:
            self._asking[source] = asyncio.create_task(self._ask(source))

    def progressed(self, source: str) -> None:
        """Ask about a source soon again: something came of it."""
        self._pauses.pop(source, None)

    async def close(self) -> None:
        """End the looks, and those that were to come."""
        await self._taking.drain(0)
        await tasks.end(list(self._asking.values()))

    async def _take(self, queued: Look) -> None:
        look = self._waiting.pop(queued.group)
        self._under_way.add(look.group)
        try:
            await self._look(look)
        finally:
            self._under_way.discard(look.group)
            self._queue.ended(queued)
            if look.group in self._waiting:
                self._taking.offer(self._waiting[look.group])

    async def _ask(self, source: str) -> None:
        try:
            while waiting := self._unsettled.get(source):
                pause = self._pauses.get(source, SOON)
                self._pauses[source] = min(2 * pause, RAREST)
                await asyncio.sleep(pause)
                try:
                    since = await self._settled_before(source)
                except MillraceError as error:
                    _log.warning("held.interrupted", source=source, reason=error.detail)
                    continue
                ready = [one for one in waiting.values() if since is None or one[1] < since]
                for look, _ in ready:
                    del waiting[look.group]
                    self.offer(look)
                if not waiting:
                    del self._unsettled[source]
        finally:
            del self._asking[source]
