"""The pool: one zygote, some children of it that are always warm; each serves one attempt and dies."""

import asyncio
import os
from collections import deque
from pathlib import Path
from typing import Any

import structlog

from services.executor.sandbox import frames, process, verdict
from services.executor.sandbox.attempt import Attempt, Ended
from services.executor.sandbox.errors import FrameError, SandboxUnavailable
from services.executor.sandbox.ground import Ground, Identity, prepare
from services.executor.sandbox.jail import Capabilities, Description, Job, Level, Outcome, StepRecord, Stream, Tier
from services.executor.sandbox.process import Child, Limits
from services.executor.sandbox.zygote import Zygote
from services.executor.sandbox.zygote import start as start_zygote

SANDBOX_UID = 65532
"""The user that images call "nonroot": no file and no other process should belong to it."""

_DESCRIBE = 30.0
"""Seconds for all imports of a bundle together."""
_REFILL_AFTER = 0.005
"""Seconds until a child that was taken is replaced, unless it was the last or its run ends before: a start takes some
milliseconds of a core, which would be felt by a short run that has just begun."""
_MOST_ENDING = 64
"""Children that may still be dying when another run begins; the outcome of their run is long told."""

_log = structlog.get_logger()


class Children:
    """A `Sandbox` of tier "none": separate processes, under a user of their own where the supervisor is root.

    `data` is a folder of the executor's own, made if missing. `size` children are kept warm; more run at once if asked.
    `uid` None keeps the supervisor's user: right where that is an ordinary one. `interpreter` is the one that runs this
    unless given.
    """

    tier: Tier = "none"

    def __init__(
        self,
        data: Path,
        *,
        uid: int | None,
        size: int = 4,
        gid: int | None = None,
        interpreter: Path | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._data = data
        self._size = size
        self._who = None if uid is None else Identity(uid, uid if gid is None else gid)
        self._interpreter = interpreter
        self._limits = limits or Limits()
        self._ground: Ground | None = None
        self._zygote: Zygote | None = None
        self._starting = asyncio.Lock()
        self._slots: deque[asyncio.Task[Child]] = deque()
        self._ending: set[asyncio.Task[None]] = set()
        self._gate = asyncio.Semaphore(max(1, len(os.sched_getaffinity(0))))

    async def start(self) -> None:
        """Lay out the files and warm the pool; answers when the first child is ready. Raises `SandboxUnavailable`."""
        if self._who is not None and os.geteuid() not in (0, self._who.uid):
            msg = f"only root can start children as user {self._who.uid}: run as root, or without that user"
            raise SandboxUnavailable(msg)
        who = self._who if os.geteuid() == 0 else None
        self._who = who
        self._ground = await asyncio.to_thread(prepare, self._data, self._interpreter, who)
        try:
            self._fill()
            await asyncio.shield(self._slots[0])
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Kill and reap every process and remove the scratch folder. Runs must have ended before."""
        slots, self._slots = self._slots, deque()
        ground, self._ground = self._ground, None
        for slot in slots:
            slot.cancel()
        for found in await asyncio.gather(*slots, return_exceptions=True):
            if isinstance(found, Child):
                await found.end()
        while self._ending:
            await asyncio.wait(self._ending)
        if self._zygote is not None:
            await self._zygote.end()
            self._zygote = None
        if ground is not None:
            await asyncio.to_thread(ground.leave)

    async def run(self, job: Job, capabilities: Capabilities, *, cancel: asyncio.Event | None = None) -> Outcome:
        """Run one attempt in a warm child; see `Sandbox.run`."""
        try:
            opening = frames.encode({"kind": "run", **_fields(job)})
        except FrameError as error:
            return verdict.refused(str(error))
        return verdict.outcome(await self._converse(opening, job.timeout, capabilities, cancel), job.timeout)

    async def describe(self, bundle: Path, *, site_packages: Path | None = None) -> Description:
        """Import the bundle's workflows in a child; see `Sandbox.describe`."""
        opening = frames.encode({"kind": "describe", "bundle": str(bundle), "site_packages": site_packages and str(site_packages)})
        return verdict.description(await self._converse(opening, _DESCRIBE, _Nothing(), None), _DESCRIBE)

    async def _converse(self, opening: bytes, seconds: float, capabilities: Capabilities, cancel: asyncio.Event | None) -> Ended:
        while len(self._ending) >= _MOST_ENDING:
            await asyncio.wait(self._ending, return_when=asyncio.FIRST_COMPLETED)
        child = await self._take()
        refill = asyncio.get_running_loop().call_later(_REFILL_AFTER, self._refill)
        try:
            ended = await Attempt(child, capabilities).ended(opening, seconds, cancel)
        except BaseException:
            await child.end()
            raise
        finally:
            refill.cancel()
            self._refill()
        ending = asyncio.create_task(child.end())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        return ended

    async def _take(self) -> Child:
        """Take a warm child, or wait for one that is on its way."""
        while True:
            if not any(slot.done() for slot in self._slots):
                self._fill()
            slot = next((one for one in self._slots if one.done()), self._slots[0])
            self._slots.remove(slot)
            was_done = slot.done()
            try:
                child = await asyncio.shield(slot)
            except asyncio.CancelledError:
                self._slots.appendleft(slot)
                raise
            except SandboxUnavailable:
                if was_done:  # an old failure: what counts is whether one can be started now
                    continue
                raise
            if child.usable:
                return child
            await child.end()

    def _refill(self) -> None:
        if self._ground is not None:
            self._fill()

    def _fill(self) -> None:
        if self._ground is None:
            msg = "the sandbox is not started"
            raise SandboxUnavailable(msg)
        while len(self._slots) < max(1, self._size):
            self._slots.append(asyncio.create_task(self._warm(self._ground)))

    async def _warm(self, ground: Ground) -> Child:
        async with self._gate:
            return await process.start(await self._parent(ground), ground, self._who, self._limits)

    async def _parent(self, ground: Ground) -> Zygote:
        """Return the zygote; a new one where the last has died."""
        async with self._starting:
            if self._zygote is None or self._zygote.died.done():
                self._zygote = await start_zygote(ground, self._who, self._lose)
            return self._zygote

    def _lose(self, reason: str) -> None:
        if self._ground is not None:
            _log.warning("sandbox.zygote_lost", reason=reason)


class _Nothing:
    """The capabilities of a bundle that is only looked at."""

    network = None

    async def log(self, level: Level, event: str, fields: dict[str, Any]) -> None:
        """Drop it."""

    async def output(self, stream: Stream, text: str) -> None:
        """Drop it."""

    async def step_get(self, name: str, ordinal: int) -> StepRecord | None:
        """Answer None: nothing was kept."""

    async def step_put(self, name: str, ordinal: int, result: Any) -> None:
        """Drop it."""

    async def connection(self, name: str) -> dict[str, Any]:
        """Refuse."""
        msg = f"{name} is for runs only, not for the import of a file"
        raise SandboxUnavailable(msg)


def _fields(job: Job) -> dict[str, Any]:
    return {
        "bundle": str(job.bundle),
        "site_packages": None if job.site_packages is None else str(job.site_packages),
        "module": job.module,
        "function": job.function,
        "input": job.input,
        "run": job.run,
        "attempt": job.attempt,
        "org": job.org,
        "workflow": job.workflow,
    }
