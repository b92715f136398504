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

# So many webhooks of a source wait in the prompt lane whatever is handled a second: nobody waits for them.
FEW = 32
# The prompt lane holds what is handled within so many seconds when all lanes have work: a source alone half of it.
PROMPT_FOR = 0.25
# Part by which the pace moves to what was counted last.
SMOOTHED = 0.3


class LaneEntry:
    """The place of a webhook: its bulk lane, None for the prompt one, and its sequence, 0 as long as it is not stored."""

    __slots__ = ("lane", "sequence")

    def __init__(self, lane: str | None) -> None:
        self.lane = lane
        self.sequence = 0


class _Bulk:
    """A source that is in a bulk lane: the sequence of its last webhook there, and how many are on their way."""

    __slots__ = ("in_flight", "lane", "last")

    def __init__(self, lane: str) -> None:
        self.lane = lane
        self.last = 0
        self.in_flight = 0


class Lanes:
    """The lanes of the webhooks that this gateway admits.

    A source moves to the bulk lane with the least in it once its part of the prompt lane is full, and back when nothing of it is
    left there, so that its webhooks do not pass each other by more than those in work do.

    From `most_queued` queued runs on the bulk lanes are not routed, and no source gets its part of the prompt lane back: each has
    `FEW` more until there are fewer.
    """

    def __init__(self, most_queued: int) -> None:
        self._most_queued = most_queued
        self.is_overfull = False
        self._pace = 0.0
        self._room = 0.0
        # Of the prompt lane: what waits there; by source what was admitted here; the same by age, each age with its last sequence.
        self._waiting = 0
        self._held: Counter[str] = Counter()
        self._ages: deque[tuple[int, Counter[str]]] = deque()
        self._youngest: Counter[str] = Counter()
        self._last = 0
        self._bulk: dict[str, _Bulk] = {}
        self._loads = dict.fromkeys(BULK_LANES, 0)

    def bulk_lane(self, source: str) -> str | None:
        """Return the bulk lane that a source is in, if it is in one."""
        bulk = self._bulk.get(source)
        return None if bulk is None else bulk.lane

    @contextlib.contextmanager
    def entered(self, source: str, weight: int = 1) -> Iterator[LaneEntry]:
        """Give a webhook its place, with a sequence to set once it is stored; its source has `weight` times the part of others."""
        entry = LaneEntry(self._choose(source, weight))
        try:
            yield entry
        finally:
            self._settle(source, entry)

    def _choose(self, source: str, weight: int) -> str | None:
        bulk = self._bulk.get(source)
        if bulk is None:
            if self._held[source] < weight * max(FEW, self._room - self._waiting):
                self._held[source] += 1
                self._waiting += 1
                return None
            bulk = self._bulk[source] = _Bulk(min(BULK_LANES, key=self._loads.__getitem__))
        bulk.in_flight += 1
        self._loads[bulk.lane] += 1
        return bulk.lane

    def _settle(self, source: str, entry: LaneEntry) -> None:
        if entry.lane is not None:
            bulk = self._bulk[source]
            bulk.in_flight -= 1
            bulk.last = max(bulk.last, entry.sequence)
        elif entry.sequence:
            self._youngest[source] += 1
            self._last = max(self._last, entry.sequence)
        else:
            self._held -= Counter({source: 1})

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
