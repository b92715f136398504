"""While queued runs are too many, floods of webhooks wait to be routed, and the gateway bounds them.

The prompt lane is routed all the same: what runs emit is routed there, and a run that waits for that must not wait for those
that are queued behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

import structlog
from nats.aio.client import Client

from shared.durables import count_for_ever
from shared.queued import RunQueue
from shared.streams import BULK_LANES, Work

HELD_BACK = frozenset(f"events-route-{lane}" for lane in BULK_LANES)
COUNTED_EVERY = 2.0
# Seconds after which a count says nothing any more, and nothing is held back for it.
OUTDATED = 30.0

_log = structlog.get_logger()


class QueuedRuns:
    """Counts the queued runs. From `most` on the bulk lanes are held back, whose events would make more of them."""

    def __init__(self, most: int, *, now: Callable[[], float] = monotonic) -> None:
        self._most = most
        self._now = now
        self._queued = 0
        self._counted_at: float | None = None

    @property
    def holds_back(self) -> bool:
        """Return whether the bulk lanes are held back."""
        fresh = self._counted_at is not None and self._now() - self._counted_at < OUTDATED
        return fresh and self._queued >= self._most

    def admits(self, work: Work) -> bool:
        """Return whether more of some work may be taken."""
        return work.name not in HELD_BACK or not self.holds_back

    def fact(self) -> dict[str, Any]:
        """Return the queued runs as `/readyz` and `/metrics` show them."""
        return {"messages": self._queued, "max_messages": self._most, "holds_back": self.holds_back}

    def counted(self, queued: int) -> None:
        """Take how many there are."""
        before = self.holds_back
        self._queued, self._counted_at = queued, self._now()
        if before != self.holds_back:
            _log.warning("floods.held_back" if self.holds_back else "floods.go_on", queued=queued, most=self._most)

    async def watch(self, client: Client) -> None:
        """Have them counted for ever."""
        queue = RunQueue(client)

        async def count() -> None:
            self.counted(await queue.count())

        await count_for_ever(count, lambda: asyncio.sleep(COUNTED_EVERY), failed="queued_runs.not_counted")
