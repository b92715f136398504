"""Bounds what is asked for without a key: so often from one address, and so many at a time."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from services.gateway.rates import Rate, TokenBucket
from shared.errors import TooMany

# A person comes a few times; a provider's page may reload.
RATE = Rate(per_second=1.0, burst=20)
# A client whose key is over tries a few times; whoever guesses at 256 bits learns nothing from being told so sooner.
STRANGERS = Rate(per_second=10.0, burst=100)
# At a time: of one address, and of all.
EACH, ALL = 4, 16
# Addresses that are remembered; those that came longest ago are forgotten first.
MOST = 10_000


class AddressBuckets:
    """A bucket for each address, in this process."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        """Return how many addresses are remembered."""
        return len(self._buckets)

    def take(self, address: str) -> float:
        """Take a token of an address and return 0, or take none and return in how many seconds there is one."""
        bucket = self._buckets.pop(address, None) or TokenBucket(self._rate)
        self._buckets[address] = bucket
        while len(self._buckets) > MOST:
            self._buckets.popitem(last=False)
        return bucket.take(time.monotonic())


class Visitors:
    """Visitors of pages for people, who are known by their address only; times are those of one clock.

    At a time there are `each` of an address, and so many `together`, of which one organization's may be a `share`.
    """

    def __init__(self, rate: Rate = RATE, *, each: int = EACH, together: int = ALL, share: int = ALL) -> None:
        self._buckets = AddressBuckets(rate)
        self._each = each
        self._together = together
        self._share = share
        self._of: Counter[str] = Counter()
        self._inside: Counter[str | None] = Counter()

    @contextmanager
    def one(self, address: str | None, org: str = "") -> Iterator[None]:
        """Let one in for the block, to what an organization has if that is named.

        Raises `TooMany`; an address that stands for many is bounded with all others only.
        """
        is_full = self._inside.total() >= self._together or (org != "" and self._of[org] >= self._share)
        if is_full or (address is not None and self._inside[address] >= self._each):
            raise TooMany("too many are asking for this at the same time", retry_after=1)
        if address is not None and (wait := self._buckets.take(address)):
            raise TooMany("this address asks too often", retry_after=wait)
        self._inside[address] += 1
        self._of[org] += 1
        try:
            yield
        finally:
            self._inside[address] -= 1
            self._of[org] -= 1
            self._inside += Counter()
            self._of += Counter()


class Strangers:
    """Those who show no key or session that counts."""

    def __init__(self) -> None:
        self._buckets = AddressBuckets(STRANGERS)

    def take(self, address: str | None) -> None:
        """Count one. Raises `TooMany` for an address that does it too often; one that stands for many is not bounded."""
        if address is not None and (wait := self._buckets.take(address)):
            raise TooMany("this address shows no key or session that counts, too often", retry_after=wait)
