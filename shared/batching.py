"""Puts messages together that may share a batch: the pure half of group commit, without a broker, a clock or a task."""

from __future__ import annotations

from collections import Counter, deque
from typing import Generic, TypeVar

import msgspec

# JetStream refuses more messages in one atomic batch (10199); the bytes bound the server's memory for it.
MAX_MESSAGES = 1000
MAX_BYTES = 4 * 1024 * 1024
# What is decided together, such as a commit of files, goes in one batch whatever its size, up to these; a broker has to be
# configured for it (`batch.max_msgs`).
MOST_TOGETHER = 10_000
MOST_BYTES_TOGETHER = 16 * 1024 * 1024
# One batch fills while another commits. A third would only make batches smaller: commits follow each other on one disk.
IN_FLIGHT = 2
# A batch takes half of the waiting messages, or so many. With all of them in one batch, sending and committing would take turns
# instead of going on side by side; much fewer messages would pay the price of a commit too often (docs/performance.md).
FEWEST_TO_SHARE = 32

P = TypeVar("P")


class PendingMessage(msgspec.Struct, Generic[P], frozen=True):
    """A message that waits for its commit: its id, its aggregate, whether it expects a sequence of it, its bytes and its bearer."""

    id: str
    aggregate: str
    expects: bool
    size: int
    bearer: P


class Batcher(Generic[P]):
    """Holds the messages that wait for one stream and decides which go next.

    An expectation is checked against the state before its batch only: two claims of one run in a batch would both win. So a
    batch holds at most one message of an aggregate when any of them expects, and neither does an aggregate of which a message
    that expects is in flight go into a second batch. Ids are the caller's to keep apart: one known id fails a whole batch.
    """

    def __init__(self, *, max_messages: int = MAX_MESSAGES, max_bytes: int = MAX_BYTES, in_flight: int = IN_FLIGHT) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._batches_allowed = in_flight
        self._waiting: deque[PendingMessage[P]] = deque()
        self._waiting_bytes = 0
        self._batches = 0
        self._flying: Counter[str] = Counter()
        self._expecting: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return how many messages wait."""
        return len(self._waiting)

    @property
    def flying(self) -> int:
        """Return how many batches are in flight."""
        return self._batches

    @property
    def waiting_bytes(self) -> int:
        """Return the bytes of the messages that wait."""
        return self._waiting_bytes

    def offer(self, offer: PendingMessage[P]) -> None:
        """Let a message wait for its turn."""
        self._waiting.append(offer)
        self._waiting_bytes += offer.size

    def take(self) -> list[PendingMessage[P]]:
        """Return the next batch, oldest first, or nothing when nothing may go now; call `done` when it has ended."""
        if self._batches >= self._batches_allowed or not self._waiting:
            return []
        batch: list[PendingMessage[P]] = []
        held: list[PendingMessage[P]] = []
        size = 0
        # In this batch: how many of an aggregate, and whether one of them expects. An aggregate that was held back once stays
        # back, so that its messages keep their order.
        within: dict[str, bool] = {}
        behind: set[str] = set()
        most = min(self._max_messages, max(FEWEST_TO_SHARE, len(self._waiting) // 2))
        while self._waiting and len(batch) < most:
            offer = self._waiting[0]
            if batch and size + offer.size > self._max_bytes:
                break
            self._waiting.popleft()
            if offer.aggregate in behind or not self._may_join(offer, within):
                behind.add(offer.aggregate)
                held.append(offer)
                continue
            within[offer.aggregate] = within.get(offer.aggregate, False) or offer.expects
            batch.append(offer)
            size += offer.size
        self._waiting.extendleft(reversed(held))
        if batch:
            self._waiting_bytes -= size
            self._batches += 1
            for offer in batch:
                self._flying[offer.aggregate] += 1
                self._expecting[offer.aggregate] += offer.expects
        return batch

    def done(self, batch: list[PendingMessage[P]]) -> None:
        """Record that a batch has ended, however it did."""
        self._batches -= 1
        for offer in batch:
            self._flying[offer.aggregate] -= 1
            self._expecting[offer.aggregate] -= offer.expects
            if not self._flying[offer.aggregate]:
                del self._flying[offer.aggregate], self._expecting[offer.aggregate]

    def _may_join(self, offer: PendingMessage[P], within: dict[str, bool]) -> bool:
        aggregate = offer.aggregate
        if aggregate in within and (offer.expects or within[aggregate]):
            return False
        if aggregate not in self._flying:
            return True
        return not offer.expects and not self._expecting[aggregate]
