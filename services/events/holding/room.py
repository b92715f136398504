"""Bounds the events that an organization has held."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from sqlalchemy.ext.asyncio import AsyncEngine

from services.events.holding import state
from shared.errors import Invalid

# As many as webhooks may wait: what blocks a key for long is to be seen before the bus forgets its events.
MOST = 100_000
# Seconds for which a count is good: with what was held here since, it is exact but for what other replicas held.
COUNTED_EVERY = 1.0


class HeldRoom:
    """Counts the held events of organizations. Raises `Unavailable` when the database is away."""

    def __init__(self, engine: AsyncEngine, *, now: Callable[[], float] = monotonic) -> None:
        self._engine = engine
        self._now = now
        # By organization: how many, and when they were counted.
        self._counted: dict[str, tuple[int, float]] = {}

    async def take(self, org: str) -> None:
        """Count one more event of an organization. Raises `Invalid` where it has as many as it may."""
        number, at = self._counted.get(org, (0, float("-inf")))
        if self._now() - at > COUNTED_EVERY:
            at = self._now()
            number = await state.number_of(self._engine, org, MOST)
            # A mean organization has no others' memory: those that hold nothing are forgotten.
            self._counted = {name: one for name, one in self._counted.items() if at - one[1] <= COUNTED_EVERY}
        if number >= MOST:
            detail = f"subscriptions hold {MOST:,} events of organization {org!r} already, which is the most"
            raise Invalid(f"{detail}: retry this delivery when there are fewer")
        self._counted[org] = number + 1, at
