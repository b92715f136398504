"""Bounds for the code of adapters: its places, its rests, and what is made ready for it.

Whoever asks waits for an answer: the gateway, whose sender waits, and the events service, whose webhooks can wait. Each has places
of its own, so that code that reads webhooks keeps nobody from verifying one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from services.executor.environments.builds import Builds
from services.executor.environments.environments import Failed
from services.executor.sandbox.interface import DeclaredAdapter
from services.executor.workspaces.bundles import Bundle, Bundles
from services.executor.workspaces.packages import of
from shared import tasks
from shared.bounded import is_room
from shared.errors import Unavailable
from shared.questions.adapters import AskAdapter

Asker = Literal["gateway", "events"]

# Of one organization's adapters at a time; and with those that wait, by who asks: of one organization, and of all together, in all
# fewer than the questions that are answered at a time. An organization has no more than are left for others.
AT_ONCE = 4
MOST: dict[Asker, int] = {"gateway": 16, "events": 8}
ALTOGETHER: dict[Asker, int] = {"gateway": 40, "events": 16}
# Seconds from the question until the code begins: for code and packages that are not on this machine, a place, and a process.
PATIENCE = 2.5
# So many times in a row an adapter's code may be lost, in a time-out or otherwise, until it rests for so many seconds: each has
# taken a whole deadline of a core. Then one request shows how it is.
LOST_IN_A_ROW, RESTS = 3, 10.0
REMEMBERED = 10_000
# Versions of one organization that are made ready at a time, and organizations that build packages for it.
READIED, BUILDING = 8, 4
# Seconds until what could not be made ready is tried again.
FAILED_FOR = 10.0
BUSY = 2.0


class ReadyingDeps(Protocol):
    """Dependencies of making code ready."""

    bundles: Bundles
    builds: Builds


class ReadyCode(msgspec.Struct, frozen=True):
    """The code of an adapter and its packages, on this machine just now: who uses it holds both at once."""

    bundle: Bundle
    declared: DeclaredAdapter
    packages: Path | None


def asker_of(asked: AskAdapter) -> Asker:
    """Return who asks."""
    return "events" if asked.act == "parse" else "gateway"


class AdapterJobs:
    """The places for the code of adapters, which of it rests, and what is being made ready."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, Asker], asyncio.Semaphore] = {}
        self._taken: dict[Asker, Counter[str]] = {"gateway": Counter(), "events": Counter()}
        # By organization, adapter, version and asker: how often it was lost in a row, and until when it rests.
        self._lost: OrderedDict[tuple[str, str, str, str, Asker], tuple[int, float]] = OrderedDict()
        # By version and adapter, with the organization whose they are, and until when a question waits for it.
        self._readying: dict[tuple[str, str], tuple[str, asyncio.Task[ReadyCode], float]] = {}
        self._building = asyncio.Semaphore(BUILDING)
        self._turns: dict[str, asyncio.Lock] = {}

    async def close(self) -> None:
        """Let go of what is being made ready."""
        await tasks.end([task for _, task, _ in self._readying.values()])

    @contextlib.contextmanager
    def admitted(self, org: str, asker: Asker) -> Iterator[None]:
        """Count a question for the block, whatever it waits for. Raises `Unavailable` where there are too many already."""
        taken = self._taken[asker]
        if not is_room(taken[org], taken.total(), MOST[asker], ALTOGETHER[asker]):
            raise Unavailable("too many requests wait for adapters", retry_after=BUSY)
        taken[org] += 1
        try:
            yield
        finally:
            taken[org] -= 1
            if not taken[org]:
                del taken[org]
                self._places.pop((org, asker), None)

    @contextlib.asynccontextmanager
    async def place(self, org: str, asker: Asker, until: float) -> AsyncIterator[None]:
        """Have a place for the block, which is admitted, after a wait until a time of the loop. Raises `Unavailable`."""
        places = self._places.setdefault((org, asker), asyncio.Semaphore(AT_ONCE))
        try:
            async with asyncio.timeout_at(until):
                await places.acquire()
        except TimeoutError as error:
            raise Unavailable("the adapters of this organization are busy", retry_after=BUSY) from error
        try:
            yield
        finally:
            places.release()

    @contextlib.contextmanager
    def trial(self, asked: AskAdapter) -> Iterator[list[bool]]:
        """Count whether the code is lost: the block appends that, if the code was run. Raises `Unavailable` while it rests."""
        key = (asked.org, asked.owner, asked.adapter, asked.version, asker_of(asked))
        count, until = self._lost.get(key, (0, 0.0))
        now = time.monotonic()
        if count >= LOST_IN_A_ROW:
            if now < until:
                raise Unavailable(f"the code of adapter {asked.adapter} hung or crashed just now", retry_after=until - now)
            self._lost[key] = (count, now + RESTS)  # the others wait for what this one shows
        outcome: list[bool] = []
        try:
            yield outcome
        finally:
            if outcome == [False]:
                self._lost.pop(key, None)
            elif outcome == [True]:
                self._lost[key] = (self._lost.pop(key, (0, 0.0))[0] + 1, time.monotonic() + RESTS)
                if len(self._lost) > REMEMBERED:
                    self._lost.popitem(last=False)
            elif count >= LOST_IN_A_ROW:
                self._lost[key] = (count, now)  # it has shown nothing: the next one does

    async def ready(self, asked: AskAdapter, deps: ReadyingDeps, until: float) -> ReadyCode:
        """Return the code of an adapter, waiting until a time of the loop; what takes longer goes on without the question.

        Questions that come after that do not wait. Raises `NotFound`, `Unavailable`.
        """
        key = (asked.version, asked.adapter)
        known = self._readying.get(key)
        if known is None:
            if sum(owner == asked.owner for owner, _, _ in self._readying.values()) >= READIED:
                raise Unavailable("many versions of this workspace are being made ready", retry_after=BUSY)
            known = self._readying[key] = (asked.owner, asyncio.create_task(self._readied(asked, deps)), until)
            known[1].add_done_callback(lambda task: self._forget(key, task))
        task = known[1]
        await asyncio.wait((task,), timeout=max(0.0, min(until, known[2]) - asyncio.get_running_loop().time()))
        if not task.done():
            raise Unavailable(f"the code of adapter {asked.adapter} is being made ready", retry_after=BUSY)
        try:
            return task.result()
        except Failed as error:
            raise Unavailable(f"the packages of adapter {asked.adapter} cannot be had: {error}", retry_after=FAILED_FOR) from error

    def _forget(self, key: tuple[str, str], task: asyncio.Task[ReadyCode]) -> None:
        """Forget what is ready, for it may go again; what has failed after a while."""
        if task.cancelled() or task.exception() is None:
            self._readying.pop(key, None)
        else:
            asyncio.get_running_loop().call_later(FAILED_FOR, self._readying.pop, key, None)

    async def _readied(self, asked: AskAdapter, deps: ReadyingDeps) -> ReadyCode:
        bundle = await deps.bundles.get(asked.version)
        declared = bundle.adapter(asked.adapter)
        locked = of(bundle.manifest.environments, declared.path)
        if locked is None:
            return ReadyCode(bundle, declared, None)
        packages = deps.builds.found(locked)
        if packages is None:
            async with self._turns.setdefault(asked.owner, asyncio.Lock()), self._building:
                packages = await deps.builds.folder(locked)
            self._turns = {org: lock for org, lock in self._turns.items() if lock.locked()}
            # Built for long, the code may have gone meanwhile.
            bundle = await deps.bundles.get(asked.version)
        return ReadyCode(bundle, declared, packages)
