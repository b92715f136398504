"""Shares: the part of this executor's slots that the runs of one organization may take while others want them.

Where there are `SHARED` slots or more, an organization may begin another run while its running ones are fewer than twice the
free slots; an organization without a running one needs a free slot only. So one alone gets two thirds of all, and the third that
stays free goes to the next to come (dynamic thresholds: Choudhury, Hahne, IEEE/ACM Transactions on Networking 6(2), 1998).

A run that comes too early for its organization's share waits in place, in a free slot. Once that leaves no slot to runs that
may begin, the runs that wait in place are parked (`parking` appends it), and those dispatched next with them, until the
others have begun. Counts and the order are kept here, in memory; nothing here reads or writes anything.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

import msgspec

from shared.streams import PRIORITIES

# Fewer slots than this are an operator's choice, and too few to keep any free.
SHARED = 8
# Seconds after the last sight of others for which runs are parked at once.
LASTS = 1.0
# Seconds for which a run that was resumed is taken to be on its way here.
ON_ITS_WAY = 10.0
# Parked runs that are remembered; others come back by their time.
MOST = 50_000
# Organizations that are shown.
SHOWN = 10


def may_begin(running: int, free: int) -> bool:
    """Return whether an organization with so many runs going on may begin another where so many slots are free."""
    return free > 0 and (running == 0 or running < 2 * free)


def room(running: int, free: int) -> int:
    """Return how many runs such an organization may begin, one after the other."""
    count = 0
    while may_begin(running + count, free - count):
        count += 1
    return count


class QueuedRun(msgspec.Struct, eq=False):
    """A run of an organization that wants to begin. One that was parked before is `first`, ahead of those that came later."""

    run: str
    org: str
    priority: str
    first: bool = False
    entered: bool = False
    admitted: Any = None

    @property
    def rank(self) -> int:
        """Return 0 for the highest priority."""
        return PRIORITIES.index(self.priority) if self.priority in PRIORITIES else 1


class Parked:
    """The parked runs of an organization in the order in which they are to go on, and those that were resumed just now."""

    def __init__(self) -> None:
        self._waiting: list[OrderedDict[str, None]] = [OrderedDict() for _ in PRIORITIES]
        self._coming: dict[str, tuple[int, float]] = {}
        self.ends = 0
        """Runs of the organization that have ended here since some were resumed last."""

    def __len__(self) -> int:
        return sum(map(len, self._waiting))

    @property
    def coming(self) -> int:
        """Return how many were resumed and have not been seen since."""
        return len(self._coming)

    def add(self, run: str, rank: int, *, first: bool) -> None:
        """Remember a run; `first` before all others of its rank."""
        self._waiting[rank][run] = None
        if first:
            self._waiting[rank].move_to_end(run, last=False)

    def take(self, count: int, until: float) -> list[str]:
        """Return the next runs, which are taken to be on their way until then."""
        taken: list[str] = []
        for rank, waiting in enumerate(self._waiting):
            while waiting and len(taken) < count:
                run, _ = waiting.popitem(last=False)
                self._coming[run] = (rank, until)
                taken.append(run)
        return taken

    def put_back(self, run: str) -> None:
        """Remember a run again that could not be resumed."""
        rank, _ = self._coming.pop(run, (1, 0.0))
        self.add(run, rank, first=True)

    def remove(self, run: str) -> bool:
        """Forget a run; returns whether it was known."""
        known = [self._coming.pop(run, None) is not None]
        for waiting in self._waiting:
            if run in waiting:
                del waiting[run]
                known.append(True)
        return any(known)

    def lose(self, now: float) -> None:
        """Forget those that have been on their way for too long: another executor may have them."""
        self._coming = {run: (rank, until) for run, (rank, until) in self._coming.items() if until > now}


class Shares:
    """The number of `slots` that each organization has. `changed` is set when a run may be due to be resumed or parked."""

    def __init__(self, slots: int, *, now: Callable[[], float] = monotonic) -> None:
        self._slots = slots
        self._now = now
        self._running: Counter[str] = Counter()
        self._in_place: dict[str, list[QueuedRun]] = {}
        self._parked: dict[str, Parked] = {}
        self._parking_until = 0.0
        self._is_open = True
        self.changed = asyncio.Event()

    @property
    def free(self) -> int:
        """Return the slots in which no run goes on."""
        return self._slots - self._running.total()

    @property
    def in_place(self) -> int:
        """Return how many runs wait in place."""
        return sum(map(len, self._in_place.values()))

    @property
    def crowded(self) -> bool:
        """Return whether the runs that wait in place leave no free slot."""
        waiting = self.in_place
        return waiting > 0 and waiting >= self.free

    def resize(self, slots: int) -> None:
        """Have so many slots from now on; of fewer than are taken none is free until as many runs have ended."""
        self._slots = slots
        self._admit()
        self.changed.set()

    @property
    def parking(self) -> bool:
        """Return whether runs over their share are parked at once."""
        return self._now() < self._parking_until

    @property
    def busy(self) -> bool:
        """Return whether anything waits here, in place or parked."""
        return bool(self._in_place or self._parked) or self.parking

    async def enter(self, place: QueuedRun) -> bool:
        """Return True when the run may begin, which is over with `leave`; False where it is to be parked."""
        parked = self._parked.get(place.org)
        place.first = parked is not None and parked.remove(place.run)
        self._tidy(place.org)
        if self._slots < SHARED:
            self._begin(place)
            return True
        running = self._running[place.org]
        # Parked runs go first, lest those on their way back be overtaken for ever.
        behind = self.parking and running > 0 and not place.first and place.org in self._parked
        if may_begin(running, self.free) and not behind:
            self._begin(place)
            return True
        if self.parking:
            return False
        place.admitted = asyncio.get_running_loop().create_future()
        self._in_place.setdefault(place.org, []).append(place)
        self.changed.set()
        if not self._is_open:
            place.admitted.cancel()
        try:
            return bool(await place.admitted)
        finally:
            self._remove(place)

    def leave(self, place: QueuedRun) -> None:
        """End an `enter` that was allowed, or about to be; the next in turn go on."""
        if not place.entered:
            return
        place.entered = False
        self._running[place.org] -= 1
        if not self._running[place.org]:
            del self._running[place.org]
        if (parked := self._parked.get(place.org)) is not None:
            parked.ends += 1
        if self._parked:
            self.changed.set()
        self._admit()

    async def stand_back(self) -> None:
        """Give back what waits in place, for another executor to begin it, while what goes on does so."""
        self.close()

    def close(self) -> None:
        """Let nothing begin any more that waits in place: those waits are cancelled."""
        self._is_open = False
        for places in self._in_place.values():
            for place in places:
                place.admitted.cancel()

    def _begin(self, place: QueuedRun) -> None:
        place.entered = True
        self._running[place.org] += 1

    def _admit(self) -> None:
        while self._is_open:
            able = [org for org in self._in_place if may_begin(self._running[org], self.free)]
            if not able:
                return
            org = min(able, key=lambda one: self._running[one])
            place = min(self._in_place[org], key=lambda one: one.rank)
            self._remove(place)
            if not place.admitted.done():
                self._begin(place)
                place.admitted.set_result(True)

    def _remove(self, place: QueuedRun) -> None:
        places = self._in_place.get(place.org)
        if places is not None and place in places:
            places.remove(place)
            if not places:
                del self._in_place[place.org]

    # -- parking --------------------------------------------------------------------------------------------------------------

    def others(self, queued: Iterable[str]) -> list[str]:
        """Return those of these organizations that might begin, were there a slot without a waiting run in it."""
        if not (self.crowded or self.parking):
            return []
        # Whose runs are parked has some on their way, and for a moment room for them: no reason to go on parking.
        known = queued if self.crowded else [org for org in queued if org not in self._parked]
        return [org for org in known if may_begin(self._running.get(org, 0), self.free)]

    def make_way(self) -> None:
        """Have the runs that wait in place parked, and those that come within `LASTS` seconds."""
        self._parking_until = self._now() + LASTS
        for places in list(self._in_place.values()):
            for place in list(places):
                self._remove(place)
                if not place.admitted.done():
                    place.admitted.set_result(False)

    def park(self, place: QueuedRun) -> None:
        """Remember a run that has been parked."""
        if sum(map(len, self._parked.values())) < MOST:
            self._parked.setdefault(place.org, Parked()).add(place.run, place.rank, first=place.first)
            self.changed.set()

    def due(self) -> list[tuple[str, str]]:
        """Return runs that are to be resumed, with their organizations: as many as may begin, and one for each that ended."""
        due: list[tuple[str, str]] = []
        now = self._now()
        for org, parked in list(self._parked.items()):
            parked.lose(now)
            may = room(self._running.get(org, 0), self.free) - len(self._in_place.get(org, ())) - parked.coming
            ended, parked.ends = parked.ends, 0
            count = min(max(may, 0 if self.parking else ended), self._slots - parked.coming)
            due += [(org, run) for run in parked.take(count, now + ON_ITS_WAY)]
            self._tidy(org)
        return due

    def put_back(self, org: str, run: str) -> None:
        """Remember a run again that could not be resumed now."""
        self._parked.setdefault(org, Parked()).put_back(run)

    def forget(self, org: str, run: str) -> None:
        """Forget a run that is parked no more."""
        if (parked := self._parked.get(org)) is not None:
            parked.remove(run)
            self._tidy(org)

    def _tidy(self, org: str) -> None:
        parked = self._parked.get(org)
        if parked is not None and not parked and not parked.coming:
            del self._parked[org]

    def state(self) -> dict[str, Any]:
        """Return how many runs go on, wait in place and are parked, by organization: those that have most."""
        counts = {
            "running": self._running,
            "in_place": Counter({org: len(places) for org, places in self._in_place.items()}),
            "parked": Counter({org: len(parked) for org, parked in self._parked.items()}),
        }
        return {"parking": self.parking, **{name: dict(count.most_common(SHOWN)) for name, count in counts.items()}}
