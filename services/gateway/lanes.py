"""Lanes: whether a webhook waits in the prompt lane, or in a bulk lane where it keeps none of another source waiting.

A durable consumer delivers in the order of its stream. So what one source has too much of is stored on subjects of its own kind,
which have consumers of their own, each handled beside the others. Pure: the broker's counts are given.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping

from shared.durables import WorkBacklog
from shared.streams import BULK_LANES

# So many webhooks of a source, and of an organization, wait in the prompt lane whatever is handled a second: nobody waits for them.
FEW, FEW_OF_ORG = 32, 128
# The prompt lane holds what is handled within so many seconds when all lanes have work: a source alone half of it.
PROMPT_FOR = 0.25
# So many bulk lanes the sources of an organization take: one is left for a burst of another, which would stay behind their floods.
LANES_OF_ORG = len(BULK_LANES) - 1
# Part by which the pace moves to what was counted last.
SMOOTHED = 0.3


_Holder = tuple[str, str | None]
"""An organization and its source, or with None all of its sources."""


class LaneEntry:
    """The place of a webhook: its bulk lane, None for the prompt one, and its sequence, 0 as long as it is not stored."""

    __slots__ = ("lane", "sequence")

    def __init__(self, lane: str | None) -> None:
        self.lane = lane
        self.sequence = 0


class _Bulk:
    """A source that is in a bulk lane: the sequence of its last webhook there, and how many are on their way."""

    __slots__ = ("in_flight", "lane", "last", "org")

    def __init__(self, org: str, lane: str) -> None:
        self.org = org
        self.lane = lane
        self.last = 0
        self.in_flight = 0


class Lanes:
    """The lanes of the webhooks that this gateway admits.

    A source moves to the bulk lane with the least in it once its part of the prompt lane is full, or its organization's, and back
    when nothing of it is left there, so that its webhooks do not pass each other by more than those in work do.

    From `most_queued` queued runs on the bulk lanes are not routed, and no source gets its part of the prompt lane back: each has
    `FEW` more until there are fewer.
    """

    def __init__(self, most_queued: int) -> None:
        self._most_queued = most_queued
        self.is_overfull = False
        self._pace = 0.0
        self._room = 0.0
        # Of the prompt lane: what waits there; what was admitted here of each source and each organization; the same by age, each
        # age with its last sequence.
        self._waiting = 0
        self._held: Counter[_Holder] = Counter()
        self._ages: deque[tuple[int, Counter[_Holder]]] = deque()
        self._youngest: Counter[_Holder] = Counter()
        self._last = 0
        self._bulk: dict[str, _Bulk] = {}
        # The number of sources in bulk lanes, by organization and lane.
        self._sources: Counter[tuple[str, str]] = Counter()
        self._loads = dict.fromkeys(BULK_LANES, 0)

    def bulk_lane(self, source: str) -> str | None:
        """Return the bulk lane that a source is in, if it is in one."""
        bulk = self._bulk.get(source)
        return None if bulk is None else bulk.lane

    @contextlib.contextmanager
    def entered(self, source: str, org: str, weight: int = 1) -> Iterator[LaneEntry]:
        """Give a webhook its place, with a sequence to set once it is stored; its source has `weight` times the part of others."""
        holders = (org, source), (org, None)
        entry = LaneEntry(self._choose(source, holders, weight))
        try:
            yield entry
        finally:
            self._settle(source, holders, entry)

    def _choose(self, source: str, holders: tuple[_Holder, _Holder], weight: int) -> str | None:
        bulk = self._bulk.get(source)
        if bulk is None:
            its_own, of_org = (self._held[holder] for holder in holders)
            room = self._room - self._waiting
            if its_own < weight * max(FEW, room) and of_org < max(FEW_OF_ORG, room):
                self._held.update(holders)
                self._waiting += 1
                return None
            bulk = self._bulk[source] = self._moved(holders[0][0])
        bulk.in_flight += 1
        self._loads[bulk.lane] += 1
        return bulk.lane

    def _moved(self, org: str) -> _Bulk:
        """Return the place of a source that moves to a bulk lane: the one with the least in it that its organization may take."""
        its_own = [lane for lane in BULK_LANES if self._sources[org, lane]]
        lane = min(its_own if len(its_own) >= LANES_OF_ORG else BULK_LANES, key=self._loads.__getitem__)
        self._sources[org, lane] += 1
        return _Bulk(org, lane)

    def _settle(self, source: str, holders: tuple[_Holder, _Holder], entry: LaneEntry) -> None:
        if entry.lane is not None:
            bulk = self._bulk[source]
            bulk.in_flight -= 1
            bulk.last = max(bulk.last, entry.sequence)
        elif entry.sequence:
            self._youngest.update(holders)
            self._last = max(self._last, entry.sequence)
        else:
            self._held -= Counter(holders)

    def counted(self, found: Mapping[str, WorkBacklog], pace: float, queued: int) -> None:
        """Take what the broker counted, by consumer, how many webhooks are handled a second, and the number of queued runs."""
        self.is_overfull = queued >= self._most_queued
        self._pace += SMOOTHED * (pace - self._pace)
        self._room = 0.0 if self.is_overfull else PROMPT_FOR * self._pace
        self._waiting = found["events-parse"].undelivered + found["events-route"].undelivered
        if self._youngest:
            self._ages.append((self._last, self._youngest))
            self._youngest = Counter()
        for lane in BULK_LANES:
            self._loads[lane] = found[f"events-parse-{lane}"].messages + found[f"events-route-{lane}"].messages
        if not self.is_overfull:
            self._give_back(found)

    def _give_back(self, found: Mapping[str, WorkBacklog]) -> None:
        """Give sources back their parts of the prompt lane, and itself to those of which nothing is left in a bulk lane."""
        while self._ages and self._ages[0][0] <= found["events-parse"].delivered:
            self._held -= self._ages.popleft()[1]
        for source, bulk in list(self._bulk.items()):
            parsed = bulk.last <= found[f"events-parse-{bulk.lane}"].delivered
            if parsed and not bulk.in_flight and not found[f"events-route-{bulk.lane}"].undelivered:
                del self._bulk[source]
                self._sources -= Counter([(bulk.org, bulk.lane)])
