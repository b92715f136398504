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
# At a time: of one address, and of all.
EACH, ALL = 4, 16
# Addresses that are remembered; those that came longest ago are forgotten first.
MOST = 10_000


class Visitors:
    """Visitors of pages for people, who are known by their address only; times are those of one clock."""

    def __init__(self, rate: Rate = RATE) -> None:
        self._rate = rate
        self._buckets: OrderedDict[str | None, TokenBucket] = OrderedDict()
        self._inside: Counter[str | None] = Counter()

    @contextmanager
    def one(self, address: str | None) -> Iterator[None]:
        """Let one in for the block. Raises `TooMany`; an address that stands for many is bounded with all others only."""
        if self._inside.total() >= ALL or (address is not None and self._inside[address] >= EACH):
            raise TooMany("too many are asking for this at the same time", retry_after=1)
        if address is not None and (wait := self._bucket(address).take(time.monotonic())):
            raise TooMany("this address asks too often", retry_after=wait)
        self._inside[address] += 1
        try:
            yield
        finally:
            self._inside[address] -= 1
            self._inside += Counter()

    def _bucket(self, address: str) -> TokenBucket:
        bucket = self._buckets.pop(address, None) or TokenBucket(self._rate)
        self._buckets[address] = bucket
        while len(self._buckets) > MOST:
            self._buckets.popitem(last=False)
        return bucket
