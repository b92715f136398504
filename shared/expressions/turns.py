"""Whose turn it is to be evaluated: organizations take turns, and none of them has more of a batch than its share. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

import msgspec

MOST = 256
LARGEST = 256 * 1024
# Seconds that a batch may be expected to take: so long does the next to come wait for it. One alone may take more.
SECONDS = 0.005
# The weight of the latest evaluation in the time expected of an organization.
_FOLLOWS = 0.2

P = TypeVar("P")


class Waiting(msgspec.Struct, Generic[P], frozen=True):
    """Something of an organization that waits: how many bytes, and its bearer."""

    org: str
    size: int
    bearer: P


class Queue(Generic[P]):
    """The tasks that wait for one process, by organization."""

    def __init__(self, *, is_mixed: bool, guess: float) -> None:
        """`is_mixed`: organizations may share a batch; `guess` is the assumed cost for an organization that is not known yet."""
        self._guess = guess
        self._is_mixed = is_mixed
        self._waiting: OrderedDict[str, deque[Waiting[P]]] = OrderedDict()
        self._takes: OrderedDict[str, float] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        """Return how many wait."""
        return self._count

    def of(self, org: str) -> int:
        """Return how many of an organization wait."""
        return len(self._waiting.get(org, ()))

    def offer(self, one: Waiting[P], *, first: bool = False) -> None:
        """Let one wait, behind its organization's others or before them."""
        line = self._waiting.setdefault(one.org, deque())
        if first:
            line.appendleft(one)
        else:
            line.append(one)
        self._count += 1

    def withdraw(self, org: str) -> list[P]:
        """Take back all of an organization."""
        line = self._waiting.pop(org, deque())
        self._count -= len(line)
        return [one.bearer for one in line]

    def note(self, org: str, seconds: float) -> None:
        """Record the time that an evaluation of an organization took."""
        before = self._takes.pop(org, self._guess)
        self._takes[org] = before + _FOLLOWS * (seconds - before)
        if len(self._takes) > 4096:
            self._takes.popitem(last=False)

    def take(self) -> list[Waiting[P]]:
        """Return the next batch: one of each organization in turn, until it is full; at least one where any waits.

        An organization passed over, because its task would take too long in this one, is the first in the next.
        """
        batch: list[Waiting[P]] = []
        passed: dict[str, None] = {}
        seconds, size = 0.0, 0
        while len(self._waiting) > len(passed) and len(batch) < MOST:
            org, line = next(iter(self._waiting.items()))
            takes = self._takes.get(org, self._guess)
            is_full = seconds + takes > SECONDS or size + line[0].size > LARGEST
            if org in passed or (batch and (is_full or (not self._is_mixed and batch[0].org != org))):
                passed[org] = None
                self._waiting.move_to_end(org)
                continue
            one = line.popleft()
            batch.append(one)
            seconds, size = seconds + takes, size + one.size
            if not line:
                del self._waiting[org]
            elif self._is_mixed:
                self._waiting.move_to_end(org)
        for org in reversed(passed):
            self._waiting.move_to_end(org, last=False)
        if batch and not self._is_mixed and batch[0].org in self._waiting:
            self._waiting.move_to_end(batch[0].org)
        self._count -= len(batch)
        return batch
