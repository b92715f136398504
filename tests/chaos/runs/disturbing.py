"""Disturbs one of two after the other, and now and then the broker or the database, as long as something is asked for."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from tests.chaos.installation import Installation
from tests.chaos.runs.replicas import Second

# What is done how often, relative to each other. Executors are what this drill is about.
WEIGHTS = {
    "kill the first": 3,
    "kill the second": 3,
    "pause the first": 1,
    "pause the second": 1,
    "kill nats": 1,
    "kill postgres": 1,
}
# In the short drill each is done about once.
IN_TURN = ("kill the first", "kill the second", "pause the second", "kill nats", "kill postgres")


class Disturbing:
    """`done` counts what was done. `pause` is in seconds: longer than the 30 after which work is given to others."""

    def __init__(
        self,
        installation: Installation,
        second: Second,
        *,
        every: float,
        pause: float,
        seed: int,
        tell: Callable[[str], None],
        weights: Mapping[str, int] = WEIGHTS,
        in_turn: Sequence[str] = IN_TURN,
    ) -> None:
        """Do nothing yet."""
        self._weights = weights
        self._in_turn = in_turn
        self._installation = installation
        self._second = second
        self._every = every
        self._pause = pause
        self._drawn = random.Random(seed)
        self._tell = tell
        self._paused: set[str] = set()
        self.done: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def going(self, *, in_turn: bool) -> AsyncIterator[None]:
        """Disturb for the block; who is paused then goes on before this returns."""
        task = asyncio.create_task(self._disturb(in_turn=in_turn))
        stopped = asyncio.create_task(self._until_cancelled(task))
        try:
            yield
        finally:
            task.cancel()
            await stopped

    async def _until_cancelled(self, task: asyncio.Task[None]) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _disturb(self, *, in_turn: bool) -> None:
        pauses: set[asyncio.Task[None]] = set()
        what = iter(self._in_turn)
        try:
            while True:
                await asyncio.sleep(self._every)
                chosen = next(what, "") if in_turn else self._drawn.choices(list(self._weights), list(self._weights.values()))[0]
                how, _, target = chosen.rpartition(" ")
                # While one stands still the other is left alone: somebody has to take its work before it wakes up.
                # With the first its supervisor stands still, and nothing that is killed would come back meanwhile.
                if not chosen or "first" in self._paused or (self._paused and target in {"first", "second"}):
                    continue
                self.done[chosen] += 1
                self._tell(chosen)
                if how.startswith("pause"):
                    pauses.add(asyncio.create_task(self._stand_still(target)))
                elif target == "second":
                    await self._second.kill()
                else:
                    await self._installation.kill(self._second.service if target == "first" else target)
        finally:
            # The block is over: those that stand still must finish their time, or their work was never redelivered.
            await asyncio.gather(*pauses)

    async def _stand_still(self, target: str) -> None:
        self._paused.add(target)
        try:
            async with self._second.paused() if target == "second" else self._installation.paused(self._second.service):
                await asyncio.sleep(self._pause)
        finally:
            self._paused.discard(target)
