"""Children that have imported the packages of a workflow, and are forked for its runs, one at a time.

A job of an organization, code and module that follows another within `_RECENT` has one made; until it is there jobs go the way
without, and so they do while all of them have runs. A child that may not be forked after the import, as when that has started a
thread, ends, and its module is left alone for `_REFUSED`.
"""

import asyncio
import contextlib
import socket
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import structlog

from services.executor.sandbox import frames, verdict
from services.executor.sandbox.attempt import Attempt
from services.executor.sandbox.errors import SandboxUnavailable
from services.executor.sandbox.process import Child, CodePaths
from services.executor.sandbox.residents import Resident, Residents

_RECENT = 60.0
"""Seconds within which another job makes it likely that there will be more."""
_REFUSED = 600.0
"""Seconds for which packages that may not be preloaded are not tried again."""
_IMPORT = 60.0
"""Seconds that the import of all packages may take."""
_MOST_RUNS, _LONGEST, _IDLE = 100_000, 3600.0, 60.0
_REMEMBERED = 1024
RELEASE = frames.encode({"kind": "release"})
"""Allows a run that has answered to end, and its parent to serve the next."""

Key = tuple[str, CodePaths, str]
_log = structlog.get_logger()


@contextlib.contextmanager
def _turned_away(listener: socket.socket | None) -> Iterator[None]:
    """End each connection that comes in the block, so that a package that is imported does not wait for an answer."""
    if listener is None:
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_reader(listener, _turn_away, listener)
    try:
        yield
    finally:
        loop.remove_reader(listener)


def _turn_away(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        listener.accept()[0].close()


class Preloading:
    """Preloaded children by organization, code and module. `take` gives a child behind all walls, `end` ends one.

    At most `most` wait, and `each` of one key live.
    """

    def __init__(
        self, take: Callable[[CodePaths], Awaitable[Child]], end: Callable[[Child], None], *, most: int, each: int
    ) -> None:
        self._take = take
        self._end = end
        self._each = each
        self._residents = Residents(most)
        self._alive: Counter[Key] = Counter()
        self._making: dict[Key, asyncio.Task[None]] = {}
        self._jobs: OrderedDict[Key, float] = OrderedDict()
        self._refused: dict[Key, float] = {}

    @property
    def count(self) -> int:
        """The number of children that wait."""
        return self._residents.count

    def take(self, key: Key) -> Resident | None:
        """Take a child that waits; without one, have one made where it is time for that."""
        found = self._residents.take(key)
        now = asyncio.get_running_loop().time()
        last = self._jobs.pop(key, None)
        self._jobs[key] = now
        if len(self._jobs) > _REMEMBERED:
            self._jobs.popitem(last=False)
        is_expected = last is not None and now - last <= _RECENT
        if found is None and is_expected and key not in self._making and self._alive[key] < self._each and self._may(key, now):
            self._making[key] = asyncio.create_task(self._made(key))
        return found

    def give(self, key: Key, resident: Resident, *, stays: bool) -> None:
        """Take a child back after a run, if it `stays`; else it ends."""
        if stays:
            resident.child.control.write(RELEASE)
            self._residents.give(key, resident)
        else:
            self._end(resident.child)

    def forget(self, bundle: Path) -> None:
        """Have none of a bundle that is about to go."""
        self._residents.forget(lambda key: key[1].bundle == bundle)

    async def made(self) -> None:
        """Wait until none is being made."""
        while self._making:
            await asyncio.wait(self._making.values())

    async def close(self) -> None:
        """End all of them."""
        for task in self._making.values():
            task.cancel()
        while self._making:
            await asyncio.wait(self._making.values())
        await self._residents.close()

    def _may(self, key: Key, now: float) -> bool:
        self._refused = {one: until for one, until in self._refused.items() if until > now}
        return key not in self._refused

    async def _made(self, key: Key) -> None:
        try:
            await self._import(key)
        except SandboxUnavailable as error:
            self._refuse(key, str(error))
        finally:
            del self._making[key]

    async def _import(self, key: Key) -> None:
        child = await self._take(key[1])
        opening = frames.encode({"kind": "preload", "module": key[2]})
        attempt = Attempt(child, None, may_stay=True)
        try:
            with _turned_away(child.egress_listener):
                ended = await attempt.ended(opening, _IMPORT, None)
        except BaseException:
            await child.end()
            raise
        outcome = verdict.outcome(ended, _IMPORT)
        found: dict[str, Any] = {}
        if outcome.result is not None:
            found = msgspec.json.decode(outcome.result, type=dict[str, Any])
        problem = found.get("problem") if found else outcome.error.message if outcome.error else "it gave no answer"
        if problem is None and not found.get("loaded"):
            problem = "it imports none"
        if problem is not None or not attempt.stays:
            self._end(child)
            self._refuse(key, str(problem or "importing the packages has started a process"))
            return
        child.is_forked = True
        child.proxy = str(found.get("proxy"))
        self._alive[key] += 1
        child.exited.add_done_callback(lambda _: self._alive.subtract([key]))
        self.give(key, Resident(child, most=_MOST_RUNS, longest=_LONGEST, idle=_IDLE), stays=True)

    def _refuse(self, key: Key, reason: str) -> None:
        self._refused[key] = asyncio.get_running_loop().time() + _REFUSED
        _log.info("sandbox.not_preloaded", org=key[0], module=key[2], reason=reason[:500])
