"""Shares out what is scarce, so that no organization and no provider takes it from the others: places to wait in, turns to ask."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from shared import tasks
from shared.errors import Unavailable


class WaitingPlaces:
    """Places of this process to wait in, `total` in all; `each` for what one organization asks of one provider.

    Neither an organization nor a provider takes more of them than it leaves free. So there is a place for the next one whatever
    any of them does: one alone has half of them, two have a third each.
    """

    def __init__(self, total: int, each: int) -> None:
        self._total = total
        self._each = each
        self._taken: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def one(self, org: str, provider: str) -> Iterator[None]:
        """Have a place for the block. Raises `Unavailable` where there is none for this organization or this provider."""
        free = self._total - self._taken.total()
        of_org = sum(count for (one, _), count in self._taken.items() if one == org)
        of_provider = sum(count for (_, one), count in self._taken.items() if one == provider)
        if max(of_org, of_provider) >= free or self._taken[org, provider] >= self._each:
            raise Unavailable("too many are waiting for this provider, or for this organization", retry_after=1)
        self._taken[org, provider] += 1
        try:
            yield
        finally:
            self._taken[org, provider] -= 1
            self._taken += Counter()


class BackgroundTasks:
    """What is done for organizations unasked, `most` at a time. None has more of it under way than there is room for."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._orgs: dict[asyncio.Task[None], str] = {}

    def room(self, at_once: int) -> int:
        """Return how many of up to `at_once` may begin now: a part of what is free, so that something is left for the next ones."""
        return min(at_once, -(-self._free // 4))

    @property
    def full(self) -> list[str]:
        """Return the organizations of which nothing may begin now."""
        return [org for org, count in Counter(self._orgs.values()).items() if count >= self._free]

    def begin(self, org: str, work: Coroutine[Any, Any, None]) -> None:
        """Do something for an organization."""
        task = asyncio.create_task(work)
        self._orgs[task] = org
        task.add_done_callback(self._orgs.pop)

    async def end(self) -> None:
        """Cancel what is under way."""
        await tasks.end(self._orgs)

    @property
    def _free(self) -> int:
        return self._most - len(self._orgs)


class _Gate:
    def __init__(self, at_once: int) -> None:
        self.turns = asyncio.Semaphore(at_once)
        self.users = 0


class Gates:
    """Turns at providers, in the order of asking: so many at a time of each. There is a gate only while somebody uses it."""

    def __init__(self, queue: int) -> None:
        """Count a provider as busy from `queue` users on."""
        self._queue = queue
        self._gates: dict[str, _Gate] = {}

    @property
    def busy(self) -> list[str]:
        """Providers with so many users that more would only wait as well."""
        return [provider for provider, gate in self._gates.items() if gate.users >= self._queue]

    def __len__(self) -> int:
        """Return how many providers are in use."""
        return len(self._gates)

    @asynccontextmanager
    async def turn(self, provider: str, at_once: int) -> AsyncIterator[None]:
        """Wait for a turn, and have it for the block."""
        gate = self._gates.get(provider)
        if gate is None:
            gate = self._gates[provider] = _Gate(at_once)
        gate.users += 1
        try:
            async with gate.turns:
                yield
        finally:
            gate.users -= 1
            if not gate.users:
                del self._gates[provider]
