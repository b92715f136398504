"""The breaker of a consumer: a bad deploy must not drain a stream into the bin, and no sender's input may stop other senders.

Pure: without a broker or a clock of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

# So many messages in a row given up for a bug are a bad deploy, not bad messages: the consumer stops before it drains the stream.
DEAD_IN_A_ROW = 20
# Seconds after which one message is tried, and after each that met a bug again.
PAUSE = 30.0
# Failed messages that a consumer remembers; the broker has at most a thousand of one consumer under way.
REMEMBERED = 10_000


class Breaker:
    """Opens after `DEAD_IN_A_ROW` dead letters for bugs without a success in between; a success closes it.

    Open, it admits one message at a time, after `PAUSE` seconds one that did not fail before, of a source whose messages did not;
    if none comes within half as many seconds more, any. So a source whose messages meet a bug does not keep out the others.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        """Begin closed; `now` is a clock that only goes forward, in seconds."""
        self._now = now
        self._dead = 0
        self._failing: set[str] = set()
        self._opened = False
        self._next = 0.0
        self._trying: float | None = None

    @property
    def hold(self) -> float:
        """Return for how many seconds a message that is not admitted is to be put off."""
        return PAUSE / 5

    def admits(self, source: str, *, tried: bool) -> bool:
        """Return whether a message may be handled now; `tried`: it failed before. Its outcome must be recorded."""
        if not self._opened:
            return True
        now = self._now()
        # One that hangs must not be the last.
        if now < self._next or (self._trying is not None and now < self._trying + PAUSE):
            return False
        if (tried or source in self._failing) and now < self._next + PAUSE / 2:
            return False
        self._trying = now
        return True

    def succeeded(self) -> bool:
        """Record a message that was handled; True when this closes the breaker."""
        closes, self._opened = self._opened, False
        self._dead, self._trying = 0, None
        self._failing.clear()
        return closes

    def met_bug(self, source: str, *, is_dead: bool) -> bool:
        """Record a message that met a bug, and whether it was given up; True when this opens the breaker."""
        self._dead += is_dead
        if len(self._failing) < REMEMBERED:
            self._failing.add(source)
        if self._opened:
            self._next, self._trying = self._now() + PAUSE, None
        elif self._dead >= DEAD_IN_A_ROW:
            self._opened, self._next, self._trying = True, self._now() + PAUSE, None
            return True
        return False

    def undecided(self) -> None:
        """Record an outcome that shows nothing about the code: the next message may be tried at once."""
        self._trying = None


class Tries:
    """Counts how often messages failed here. The broker counts deliveries, which may have had other reasons."""

    def __init__(self) -> None:
        self._counts: OrderedDict[int, int] = OrderedDict()

    def of(self, sequence: int) -> int:
        """Return how often a message failed."""
        return self._counts.get(sequence, 0)

    def failed(self, sequence: int) -> int:
        """Count a failure; returns how many there were."""
        count = self._counts[sequence] = self._counts.pop(sequence, 0) + 1
        if len(self._counts) > REMEMBERED:
            self._counts.popitem(last=False)
        return count

    def settled(self, sequence: int) -> None:
        """Forget a message that does not come again."""
        self._counts.pop(sequence, None)
