"""The templates of a sandbox: which bundles have one, and the children that wait forked ahead of their jobs.

A job of an organization and bundle that follows another within `_RECENT` makes a template for the two: that costs about as much as
one run without, and less than two. Until it is there jobs go the way without. At most `most` are kept; the one that was used least
recently goes first, but none that has a run. One that was not used for `_IDLE` is ended, and so is one with which anything went
wrong: then a later job makes another. None ever serves another organization, or other code.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import structlog

from services.executor.sandbox.errors import SandboxUnavailable
from services.executor.sandbox.pool import ChildPool
from services.executor.sandbox.process import Child, CodePaths
from services.executor.sandbox.template import Template

MOST = 32
"""Templates at a time: each has some 3 MB of its own, and a waiting child one or two."""
_RECENT = 60.0
"""Seconds within which another job makes it likely that there will be more."""
_IDLE = 60.0
"""Seconds without a job after which a template is ended."""
_RESTS = 30.0
"""Seconds until a bundle has another template once something went wrong with one."""
_REMEMBERED = 1024
"""Bundles whose last jobs are remembered."""
_AHEAD, _MOST_AHEAD = 2, 8
"""Children that wait for a job, of a template in use, and while jobs come faster than children."""

_Key = tuple[str, CodePaths]
_log = structlog.get_logger()


class _Served:
    """A template with the pool of its children."""

    def __init__(self, template: Template, pool: ChildPool) -> None:
        self.template = template
        self.pool = pool
        self.used_at = asyncio.get_running_loop().time()

    @property
    def is_busy(self) -> bool:
        """Whether a run goes on in a child, or one is still being cleared away."""
        return self.template.children > len(self.pool.waiting)


class Templates:
    """Templates by organization and bundle. `make` starts one, `start` a child of it; either raises `SandboxUnavailable`.

    A template is made by the `after`th job in a row; the first waits for it, where it is the first.
    """

    def __init__(
        self,
        make: Callable[[CodePaths], Awaitable[Template]],
        start: Callable[[Template, CodePaths], Awaitable[Child]],
        *,
        most: int = MOST,
        after: int = 2,
    ) -> None:
        self._make = make
        self._start = start
        self._most = most
        self._after = after
        self._served: OrderedDict[_Key, _Served] = OrderedDict()
        self._making: dict[_Key, asyncio.Task[None]] = {}
        self._unwanted: set[_Key] = set()
        """Those of them whose bundle has gone."""
        self._jobs: OrderedDict[_Key, tuple[float, int]] = OrderedDict()
        """The time of the last job of each, and how many came in a row."""
        self._resting: dict[_Key, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.TimerHandle | None = None
        self._is_open = True

    @property
    def all(self) -> list[tuple[Template, ChildPool]]:
        """Return those that are in use, each with its waiting children."""
        return [(one.template, one.pool) for one in self._served.values()]

    def counts(self) -> dict[str, int]:
        """Return how many there are, and how many children wait in them."""
        return {"templates": len(self._served), "ahead": sum(len(one.pool.waiting) for one in self._served.values())}

    async def take(self, org: str, place: CodePaths, module: str) -> tuple[Child, ChildPool] | None:
        """Take a child of the template of this organization and code, with the pool that it is from; None where there is none.

        Children to come will have read the job's module.

        The child is the caller's to `end`.
        """
        key = (org, place)
        served = self._served.get(key)
        if served is None:
            await self._begin_in_time(key, module)
            served = self._served.get(key)
            if served is None:
                return None
        served.used_at = asyncio.get_running_loop().time()
        self._served.move_to_end(key)
        served.template.expect(module)
        try:
            return await served.pool.take(place), served.pool
        except SandboxUnavailable as error:
            self._doubt(key, served, str(error))
            return None

    def forget(self, bundle: Path) -> None:
        """Have no template of this bundle, which is about to go, once its runs are over."""
        for key in [key for key in self._served if key[1].bundle == bundle]:
            self._retire(key)
        self._unwanted.update(key for key in self._making if key[1].bundle == bundle)

    def end_idle(self, seconds: float) -> None:
        """End those that had no job for so long, and have no run."""
        now = asyncio.get_running_loop().time()
        for key, served in list(self._served.items()):
            if now - served.used_at >= seconds and not served.is_busy:
                self._retire(key)

    async def close(self) -> None:
        """End all of them."""
        self._is_open = False
        if self._sweeping is not None:
            self._sweeping.cancel()
        if self._making:
            await asyncio.wait(self._making.values())
        for key in list(self._served):
            self._retire(key)
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _begin_in_time(self, key: _Key, module: str) -> None:
        """Note a job, and begin to make a template where it is time for one."""
        now = asyncio.get_running_loop().time()
        last, jobs = self._jobs.pop(key, (0.0, 0))
        jobs = jobs + 1 if now - last <= _RECENT else 1
        self._jobs[key] = (now, jobs)
        if len(self._jobs) > _REMEMBERED:
            self._jobs.popitem(last=False)
        if jobs >= self._after and key not in self._making and self._has_room(key, now):
            self._making[key] = asyncio.create_task(self._made(key, module))
        if self._after <= 1 and key in self._making:
            await asyncio.wait([self._making[key]])

    def _has_room(self, key: _Key, now: float) -> bool:
        """Answer whether there may be another template, having retired the one that was used least recently."""
        if not self._is_open or now < self._resting.pop(key, 0.0):
            return False
        if len(self._served) + len(self._making) < self._most:
            return True
        idle = next((one for one, served in self._served.items() if not served.is_busy), None)
        if idle is not None:
            self._retire(idle)
        return idle is not None

    async def _made(self, key: _Key, module: str) -> None:
        place = key[1]
        try:
            template = await self._make(place)
            if key in self._unwanted:
                await template.end()
                return
        except SandboxUnavailable as error:
            self._rest(key, str(error))
            return
        finally:
            del self._making[key]
            self._unwanted.discard(key)
        template.expect(module)
        pool = ChildPool(lambda _: self._start(template, place), least=_AHEAD, most=_MOST_AHEAD, places=False)
        served = self._served[key] = _Served(template, pool)
        template.died.add_done_callback(lambda died: self._doubt(key, served, died.result()))
        pool.tend()
        self._sweep_later()

    def _doubt(self, key: _Key, served: _Served, reason: str) -> None:
        """Have a template served nobody any more with which something went wrong."""
        if self._served.get(key) is served:
            self._rest(key, reason)
            self._retire(key)

    def _rest(self, key: _Key, reason: str) -> None:
        if self._is_open:
            self._resting[key] = asyncio.get_running_loop().time() + _RESTS
            _log.warning("sandbox.template_lost", org=key[0], bundle=str(key[1].bundle), reason=reason)

    def _retire(self, key: _Key) -> None:
        served = self._served.pop(key)
        self._start_task(self._ended(served))

    async def _ended(self, served: _Served) -> None:
        await served.pool.close()
        await served.template.childless()
        await served.template.end()

    def _sweep_later(self) -> None:
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(_IDLE / 2, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = None
        self.end_idle(_IDLE)
        now = asyncio.get_running_loop().time()
        self._resting = {key: until for key, until in self._resting.items() if until > now}
        if self._served:
            self._sweep_later()

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
