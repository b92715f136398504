"""Removes what the archive is not to keep any more, and says so in the audit trail before it does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import Any

import msgspec
import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from services.logs import removals, store
from services.logs.domain import CATEGORY, REMOVED
from services.logs.limits import Limit, limits_at, ranges_of
from services.logs.partitions import name_of
from services.logs.removals import MessagePlace
from shared.bus import Bus
from shared.db import transaction
from shared.envelope import rfc3339
from shared.errors import Unavailable
from shared.health import Health
from shared.leader import lead
from shared.messages import Audited
from shared.organizations import PLATFORM
from shared.registry import RegistryView
from shared.resources.retention import FEWEST, RetentionEntry
from shared.streams import STREAMS

# Messages that are deleted by one transaction, which one record of the audit trail names.
TOGETHER = 1000
# Such transactions of one look at each limit, so that each has its turn.
BATCHES = 20
# Seconds between two looks. What one look records the next one deletes: the record is sealed by then.
EVERY = 150.0
FIRST = 30.0
# Characters of an error that are logged.
SHOWN = 200
# A day's partition is dropped when no message that is kept on the bus can come to it.
AFTER = timedelta(days=min(FEWEST.values()) + 1)

_AGELESS = {stream.name for stream in STREAMS if stream.max_age is None}
_log = structlog.get_logger()


class _Batch(msgspec.Struct, frozen=True):
    """Messages that are recorded as removed."""

    limit: Limit
    places: list[MessagePlace]


class Removals:
    """The removal of one replica at a time."""

    def __init__(
        self, engine: AsyncEngine, bus: Bus, view: RegistryView[RetentionEntry], health: Health, now: Callable[[], datetime]
    ) -> None:
        """Publish the number of rows that were removed, by stream, and of partitions that were dropped, as the fact `retention`."""
        self._engine = engine
        self._bus = bus
        self._view = view
        self._now = now
        self._recorded: list[_Batch] = []
        self._removed: dict[str, int] = {}
        self._dropped = 0
        self._is_first = True
        health.state(
            "retention",
            lambda: {"removed": self._removed, "dropped": self._dropped},
            counters=("removed", "dropped"),
            labels={"removed": "stream"},
        )

    def limits(self) -> list[Limit]:
        """Return the limits as of now."""
        return limits_at(self._now(), self._view.values())

    async def look(self) -> int:
        """Remove what the last look recorded, record what is next, drop empty partitions; return how many messages were removed.

        Raises `Unavailable`. Of a look that is not brought to its end the rest is recorded again.
        """
        await self._view.complete()
        recorded, self._recorded = self._recorded, []
        limits = {(one.stream, one.org, one.others): one.before for one in self.limits()}
        removed = 0
        for batch in recorded:
            of = batch.limit
            before = limits.get((of.stream, of.org, of.others))
            # Not where the retention was prolonged meanwhile: what a record names may still be there.
            if before is not None and batch.places[-1].time < before:
                await self._remove(batch)
                removed += len(batch.places)
        for limit in self.limits():
            await self._record(limit)
        self._is_first = False
        await self._drop()
        return removed

    async def _record(self, limit: Limit) -> None:
        # What the bus has for ever may have been archived anew while nobody looked.
        anew = limit.stream in _AGELESS and self._is_first
        async with transaction(self._engine) as connection:
            after = None if anew else await removals.begun(connection, limit)
        for _ in range(BATCHES):
            async with transaction(self._engine) as connection:
                places = await removals.following(connection, limit, after, TOGETHER)
            if not places:
                return
            for incarnation, found in groupby(sorted(places, key=attrgetter("incarnation")), key=attrgetter("incarnation")):
                audited = _audited(limit, incarnation, list(found))
                await self._bus.publish(self._bus.seal(audited, org=limit.org or PLATFORM))
            self._recorded.append(_Batch(limit, places))
            after = places[-1]

    async def _remove(self, batch: _Batch) -> None:
        stream = batch.limit.stream
        async with transaction(self._engine) as connection:
            rows = await removals.remove(connection, stream, batch.places)
            await removals.note(connection, batch.limit, batch.places[-1])
        self._removed[stream] = self._removed.get(stream, 0) + rows

    async def _drop(self) -> None:
        newest = name_of((self._now() - AFTER).date())
        async with transaction(self._engine) as connection:
            names = sorted(name for name in await store.partitions(connection) if name[-8:].isdigit() and name < newest)
            empty = [name for name in names if await removals.is_empty(connection, name)]
        for name in empty:
            try:
                async with transaction(self._engine) as connection:
                    if not await store.claim_partitioning(connection) or not await removals.drop(connection, name):
                        continue
            except (Unavailable, DBAPIError) as error:
                # A search holds it: the next look comes.
                _log.warning("archive.partition_not_dropped", partition=name, reason=f"{type(error).__name__}: {error}"[:SHOWN])
                continue
            self._dropped += 1
            _log.info("archive.partition_dropped", partition=name)


def _audited(limit: Limit, incarnation: str, places: list[MessagePlace]) -> Audited:
    detail: dict[str, Any] = {
        "incarnation": incarnation,
        "ranges": ranges_of(one.seq for one in places),
        "messages": len(places),
        "since": rfc3339(min(one.time for one in places)),
        "until": rfc3339(max(one.time for one in places)),
        "of": limit.org,
        "reason": "retention",
    }
    return Audited(category=CATEGORY, verb=REMOVED, actor="logs", target=limit.stream, outcome="ok", detail=detail)


async def retain(retention: Removals, url: str) -> None:
    """Look for ever, while no other replica with the database at `url` does."""
    await lead(
        retention.look,
        url=url,
        service="logs",
        lock="logs.retention",
        pause=EVERY,
        first=FIRST,
        interrupted="archive.retention_interrupted",
    )
