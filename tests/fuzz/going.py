"""Cases going through a door, some at a time, and what is counted of them."""

from __future__ import annotations

import asyncio
import functools
import re
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor

import msgspec

from tests.fuzz.cases import LOT, Case, Target, lot, strategy
from tests.fuzz.doors import FAILED, UNANSWERED, WRONG, Door, Wrong
from tests.fuzz.pace import Pace

WRONGS = (FAILED, UNANSWERED, WRONG)
# Of failures that look alike so many are told.
TOLD = 2
# What differs between two failures that look alike: numbers, ids, and what is quoted.
_ALIKE = re.compile(r"\d+|[0-9a-f-]{36}|'[^']*'|(?:ask|do)\.\w+\.\w+|\babout \S+")


class Failure(msgspec.Struct, frozen=True):
    """A case that did harm: its number repeats it."""

    door: str
    number: int
    case: str
    said: str


class Count(msgspec.Struct, kw_only=True):
    """What became of a door's cases; `kinds` counts them by what was hostile about them."""

    door: str
    seconds: float = 0.0
    became: Counter[str] = msgspec.field(default_factory=Counter)
    kinds: Counter[str] = msgspec.field(default_factory=Counter)
    failures: list[Failure] = msgspec.field(default_factory=list)
    alike: Counter[str] = msgspec.field(default_factory=Counter)
    complaints: list[str] = msgspec.field(default_factory=list)

    @property
    def failed(self) -> int:
        """Return how many did harm."""
        return sum(self.became[name] for name in WRONGS)


class Going:
    """Sends cases of one seed through a door."""

    def __init__(self, door: Door, pool: ProcessPoolExecutor, pace: Pace, *, seed: int, without: frozenset[str]) -> None:
        """`pool` draws them, in a process of its own since that takes a core's time."""
        self._door = door
        self._pool = pool
        self._pace = pace
        self._seed = seed
        self._without = without
        self.count = Count(door=door.name)

    async def send(self, first: int, many: int) -> None:
        """Send `many` cases from number `first` on, and wait for what comes of them."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        waiting: asyncio.Queue[tuple[int, Case] | None] = asyncio.Queue(self._door.most)

        async def work() -> None:
            while (item := await waiting.get()) is not None:
                await self._pace.turn()
                await self._one(*item)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._door.most):
                group.create_task(work())
            async for number, case in self._cases(first, many):
                await waiting.put((number, case))
            for _ in range(self._door.most):
                await waiting.put(None)
        self.count.complaints += await self._door.settled()
        self.count.seconds += loop.time() - began

    async def _cases(self, first: int, many: int) -> AsyncIterator[tuple[int, Case]]:
        targets = tuple(self._door.targets())
        last = (first + many - 1) // LOT
        ahead = self._lot(targets, first // LOT)
        for number in range(first // LOT, last + 1):
            cases = await ahead
            if number < last:
                ahead = self._lot(targets, number + 1)
            for place, case in enumerate(cases, number * LOT):
                if first <= place < first + many:
                    yield place, case

    def _lot(self, targets: tuple[Target, ...], number: int) -> asyncio.Future[list[Case]]:
        drawing = functools.partial(_drawn, self._door.name, targets, self._without, self._seed, number)
        return asyncio.get_running_loop().run_in_executor(self._pool, drawing)

    async def _one(self, number: int, case: Case) -> None:
        count = self.count
        count.became["values"] += 1
        count.kinds[case.kind] += 1
        try:
            outcome = await self._door.send(case)
        except Wrong as wrong:
            count.became[wrong.how] += 1
            alike = _ALIKE.sub("…", str(wrong))[:120]
            count.alike[alike] += 1
            if count.alike[alike] <= TOLD:
                count.failures.append(Failure(self._door.name, number, str(case), str(wrong)))
            return
        count.became[outcome.became] += 1


_strategy = functools.lru_cache(strategy)


def _drawn(door: str, targets: tuple[Target, ...], without: frozenset[str], seed: int, number: int) -> list[Case]:
    """Return a lot of cases; runs in the process that draws."""
    return lot(door, _strategy(targets, without), seed, number)
