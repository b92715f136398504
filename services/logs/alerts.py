"""Counts the saved searches that are to raise an alert, and says once of each crossing that one finds too much.

A crossing is recorded with its message before that is published, and by a comparison with what was recorded before: a process that
dies in between, or another one at the same time, says nothing twice and leaves nothing unsaid.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
import structlog
from sqlalchemy import RowMapping

from services.logs import alert_rows, selecting
from services.logs.scope import ArchiveDeps, looking, selected
from shared.bus import Bus
from shared.db import transaction
from shared.envelope import new_id, rfc3339
from shared.errors import Invalid, Unavailable
from shared.messages import AlertRaised
from shared.questions.logs import Search
from shared.resources.search import SavedSearch

# Seconds between two rounds, and that a count may take: the others are not to wait for it.
EVERY = 5.0
SECONDS = 3.0
# Organizations whose searches are counted at the same time, and seconds that those of one may take in a round: what is left of them
# comes first in the next one.
AT_ONCE = 4
EACH = 3.0

_log = structlog.get_logger()


class Alerts:
    """Looks at every saved search with an alert."""

    def __init__(self, bus: Bus, deps: ArchiveDeps) -> None:
        self._bus = bus
        self._deps = deps
        self._failing: set[str] = set()
        # The last one of an organization that was counted in a round which had no time for all.
        self._last: dict[str, str] = {}

    async def once(self) -> int:
        """Look at each once, as far as its organization has time. Raises `Unavailable`."""
        await self._announce()
        async with transaction(self._deps.engine) as connection:
            searches = await alert_rows.counted(connection)
            await alert_rows.forget_others(connection)
        of_org: dict[str, list[RowMapping]] = {}
        for one in searches:
            of_org.setdefault(one["org"], []).append(one)
        self._last = {org: last for org, last in self._last.items() if org in of_org}
        turns = asyncio.Semaphore(AT_ONCE)
        ended = await asyncio.gather(*(self._turn(org, own, turns) for org, own in of_org.items()), return_exceptions=True)
        await self._announce()
        for outcome in ended:
            if outcome is not None:
                raise outcome
        return 0

    async def _turn(self, org: str, searches: Sequence[RowMapping], turns: asyncio.Semaphore) -> None:
        """Look at an organization's searches, in the order of their ids, for so long as it has time."""
        async with turns:
            began, last = time.perf_counter(), self._last.pop(org, "")
            for one in sorted(searches, key=lambda one: (one["id"] <= last, one["id"])):
                await self._look(one)
                if time.perf_counter() - began > EACH:
                    self._last[org] = one["id"]
                    return

    async def _look(self, search: RowMapping) -> None:
        """Count one, and record whether it is above its limit."""
        spec = msgspec.convert(search["spec"], SavedSearch)
        limit = spec.alert_above or 0
        until = self._deps.now()
        since = until - timedelta(seconds=spec.alert_window)
        try:
            async with looking(self._deps, search["org"], SECONDS) as connection:
                selection = await selected(Search(org=search["org"], q=spec.q), connection, self._deps)
                count = await selecting.count(connection, selection, since, until, limit + 1)
        except (Invalid, Unavailable) as error:
            # Neither a query of another version nor one that takes too long keeps the others from being counted.
            if search["id"] not in self._failing:
                _log.warning("alert.not_counted", org=search["org"], search=search["name"], reason=error.detail)
            self._failing.add(search["id"])
            return
        self._failing.discard(search["id"])
        raised = None if count <= limit else _raised(search, spec, count, since, until)
        looked = alert_rows.Looked(
            id=search["id"], org=search["org"], version=search["version"], above=count > limit, since=until, raised=raised
        )
        async with transaction(self._deps.engine) as connection:
            await alert_rows.record(connection, looked)

    async def _announce(self) -> None:
        async with transaction(self._deps.engine) as connection:
            waiting = await alert_rows.unannounced(connection)
        for one in waiting:
            message = msgspec.json.decode(one["raised"], type=AlertRaised)
            await self._bus.publish(self._bus.seal(message, org=one["org"], id=message.alert))
            async with transaction(self._deps.engine) as connection:
                await alert_rows.announced(connection, one["id"], one["raised"])


def _raised(search: RowMapping, spec: SavedSearch, count: int, since: datetime, until: datetime) -> str:
    message = AlertRaised(
        alert=new_id(),
        search=search["id"],
        name=search["name"],
        q=spec.q,
        limit=spec.alert_above or 0,
        count=count,
        since=rfc3339(since),
        until=rfc3339(until),
    )
    return msgspec.json.encode(message).decode()
