"""The whole: a stack of its own, a canary in it, and the values of all doors in turn."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import msgspec
from nats.aio.client import Client as Nats

from tests.chaos.place import end_in_order
from tests.fuzz.canary import Canary
from tests.fuzz.doors import Door
from tests.fuzz.doors.declarations import Declarations
from tests.fuzz.doors.hooks import Hooks
from tests.fuzz.doors.http import Http
from tests.fuzz.doors.questions import Questions
from tests.fuzz.doors.runs import Runs
from tests.fuzz.doors.streams import Streams
from tests.fuzz.going import Count, Going
from tests.fuzz.pace import Pace
from tests.fuzz.place import Place
from tests.fuzz.report import Report, made
from tests.fuzz.verdict import Watch
from tests.support.stack import Up

Make = Callable[[Place, dict[str, Nats]], Door]
DOORS: dict[str, Make] = {
    "http": lambda place, _: Http(place),
    "hooks": lambda place, _: Hooks(place),
    "questions": Questions,
    "streams": lambda place, buses: Streams(place, buses["admin"]),
    "runs": lambda place, _: Runs(place),
    "declarations": lambda place, _: Declarations(place),
}
# Of a hundred values so many go through each door: a deployment takes as long as a hundred questions.
SHARES = {"http": 40, "hooks": 20, "questions": 22, "streams": 14, "runs": 3, "declarations": 1}
# How many go through a door before the stack is looked at and the next door has its turn.
BATCH = 4_000


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent: `values` in all through `doors`, or just the one with the number `only`; `without` some kinds."""

    values: int
    seed: int
    doors: tuple[str, ...]
    only: int | None = None
    without: frozenset[str] = frozenset()

    def batches(self) -> list[tuple[str, int, int]]:
        """Return the doors in turn, each with the number of the first of its next values and how many they are."""
        if self.only is not None:
            return [(door, self.only, 1) for door in self.doors]
        whole = sum(SHARES[door] for door in self.doors)
        many = {door: max(1, self.values * SHARES[door] // whole) for door in self.doors}
        rounds = max(1, -(-self.values // (BATCH * len(self.doors))))
        found = []
        for turn in range(rounds):
            for door, share in many.items():
                first, end = share * turn // rounds, share * (turn + 1) // rounds
                if end > first:
                    found.append((door, first, end - first))
        return found


async def fuzzed(plan: Plan, folder: Path, tell: Callable[[Count], None]) -> Report:
    """Carry a plan out on a stack in the folder; `tell` is called after each batch with what is counted of its door so far."""
    end_in_order()
    up = Up(folder / "data")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            await up.start()
            place = Place(up)
            await place.prepare()
            canary = Canary(place)
            await canary.prepare()
            async with contextlib.AsyncExitStack() as held:
                names = ("admin", "gateway", "events", "executor", "logs")
                buses = {name: await held.enter_async_context(place.bus(name)) for name in names}
                watch, pace = Watch(place, buses["admin"]), Pace(buses["admin"])
                goings = {
                    name: Going(DOORS[name](place, buses), pool, pace, seed=plan.seed, without=plan.without) for name in plan.doors
                }
                await held.enter_async_context(pace.kept())
                at, began = datetime.now(UTC), asyncio.get_running_loop().time()
                async with canary.singing():
                    for name, first, many in plan.batches():
                        await goings[name].send(first, many)
                        goings[name].count.complaints += await watch.complaints()
                        tell(goings[name].count)
                return made(
                    [going.count for going in goings.values()],
                    canary,
                    restarts=watch.restarted(),
                    errors=await watch.errors(),
                    at=at,
                    seed=plan.seed,
                    seconds=asyncio.get_running_loop().time() - began,
                )
        finally:
            await up.clear()
