"""Memory for bodies that are read whole: bounds the bytes of all requests together, and the share of one of many."""

from __future__ import annotations

from collections import defaultdict
from typing import Self

from aiohttp import web

from shared.errors import TooMany, Unavailable
from shared.http import body_of

MIB = 1024 * 1024
# Every body may have this much without being counted, as nearly all webhooks have no more: no number of bodies that are on their
# way shuts out one of this size. The bound on connections bounds it: 64 MiB for the 4,096 that there are at most unless set.
FREE = 16 * 1024
# A larger body is a large body.
SMALL = 64 * 1024
# For small bodies alone, so that large ones never shut them out: a thousand of the largest small ones.
RESERVE = 64 * MIB
# For large bodies: so many of the largest that are taken, at least.
LARGEST = 8
LEAST_LARGE = 192 * MIB
# The parts that a source, an organization, which can have as many sources as it likes, and an address may have. Of the large
# ones a source has two of the largest, so that one that dribbles does not take its own source's turn.
OF_SMALL = (8, 4, 4)
OF_LARGE = (4, 2, 2)
# Seconds after which a refused client may try again: more than an honest body takes to arrive.
AGAIN = 5.0


class MemoryBudget:
    """Counts the bytes that are held. `largest` is the size of the largest body that is taken."""

    def __init__(self, largest: int, *, reserve: int = RESERVE) -> None:
        self.small = BytePool(reserve, OF_SMALL)
        self.large = BytePool(max(LEAST_LARGE, LARGEST * largest), OF_LARGE)

    def hold(self, *, org: str, source: str | None = None, address: str | None = None) -> Reservation:
        """Give a count of bytes that is given back at the end of its block, for clients that share the budget."""
        return Reservation(self, source, org, address)


class BytePool:
    """A number of bytes, and the share of each client."""

    def __init__(self, size: int, parts: tuple[int, int, int]) -> None:
        self.free = size
        # Sources, organizations, addresses.
        self._most = tuple(size // part for part in parts)
        self._had: tuple[defaultdict[str, int], ...] = (defaultdict(int), defaultdict(int), defaultdict(int))

    def take(self, who: tuple[str | None, ...], size: int) -> None:
        """Take `size` bytes. Raises `TooMany` for a client that has its share, `Unavailable` when there is no room."""
        if size > self.free:
            raise Unavailable("too many bodies are on their way at once", retry_after=AGAIN)
        for name, had, most in zip(who, self._had, self._most, strict=True):
            if name is not None and had[name] + size > most:
                raise TooMany("too many bodies are on their way to one source, or from one sender", retry_after=AGAIN)
        self.free -= size
        for name, had in zip(who, self._had, strict=True):
            if name is not None:
                had[name] += size

    def give_back(self, who: tuple[str | None, ...], size: int) -> None:
        """Make room again."""
        self.free += size
        for name, had in zip(who, self._had, strict=True):
            if name is not None:
                had[name] -= size
                if had[name] <= 0:
                    del had[name]


class Reservation:
    """One request's hold on the budget."""

    def __init__(self, budget: MemoryBudget, source: str | None, org: str, address: str | None) -> None:
        self._budget = budget
        self._pool: BytePool | None = None
        self._who = (source, org, address)
        self.size = 0

    def __enter__(self) -> Self:
        """Begin the block."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Give back the bytes taken."""
        if self._pool is not None:
            self._pool.give_back(self._who, self.size)

    def take(self, size: int) -> None:
        """Hold `size` bytes more, as they arrive. Raises `TooMany`, `Unavailable`."""
        size += self.size
        if size > FREE:
            pool = self._budget.small if size <= SMALL else self._budget.large
            if pool is self._pool:
                pool.take(self._who, size - self.size)
            else:
                pool.take(self._who, size)
                if self._pool is not None:
                    self._pool.give_back(self._who, self.size)
                self._pool = pool
        self.size = size

    async def body(self, request: web.Request, limit: int) -> bytes:
        """Return a request's body, counted while it streams in. Raises as `body_of` and `take` do."""
        return await body_of(request, limit, self.take)
