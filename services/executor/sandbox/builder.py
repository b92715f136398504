"""Builds environments apart from everything else: children of a zygote of their own, each for one step.

The walls are those of runs, with three differences. A building child may write into one folder, which is on a disk and is measured
while it works. It sees the package indexes that lie on this machine, and the resolver's program. It reaches the hosts of the
configured indexes and no other. No child of runs is ever forked from this zygote, and none of its children executes a package.

What source distributions execute has a builder of its own: its children see nothing of indexes, reach nothing, and may write into
one file of their folder. Elsewhere they have temporary files that the kernel bounds, and no disk to fill behind a measurer's back.
"""

import asyncio
import contextlib
import os
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog

from services.executor.sandbox import frames, memory, process, verdict
from services.executor.sandbox.attempt import Attempt
from services.executor.sandbox.cgroups import Cgroups
from services.executor.sandbox.egress.network import Network
from services.executor.sandbox.errors import SandboxUnavailable
from services.executor.sandbox.ground import Ground, Identity, prepare
from services.executor.sandbox.hierarchies import Share
from services.executor.sandbox.interface import Outcome, Tier
from services.executor.sandbox.process import Child, ChildLimits, CodePaths
from services.executor.sandbox.zygote import Zygote
from services.executor.sandbox.zygote import start as start_zygote

_EVERY = 0.25
"""Seconds between two looks at a child's memory and folder."""
_SHARE = 16
"""Of what the disk has free one step takes no more than this part: others on it go on, however many steps there are at once."""
_IDLE = 30.0
"""Seconds without a step after which the zygote ends."""
_log = structlog.get_logger()


@dataclass(frozen=True)
class StepLimits:
    """Bounds of one step. `seconds` from its start; the rest for its folder, and for all of its processes together.

    A disk that is nearly full lowers `bytes`.
    """

    seconds: float = 600.0
    bytes: int = 4 << 30
    files: int = 200_000
    memory: int = 2 << 30
    processes: int = 256
    cores: float = 2.0
    scratch_mb: int = 64
    """Of temporary files, which are memory."""


class StepFailed(Exception):
    """A step that came to no end of its own; the message is for people."""


class Builder:
    """Carries out steps behind the walls of `tier`. From one event loop.

    `data` is the sandbox's folder, and `work` the one below which all folders of steps are. `shown` are files and folders of this
    machine that children may read, as far as they are there. With an `output` they may write to that file of their folder alone,
    which must be there. `grouped`: whether control groups may be made. Without a tier there is no sandbox, and every step raises
    `SandboxUnavailable`.
    """

    def __init__(
        self,
        data: Path,
        work: Path,
        *,
        tier: Tier | None,
        uid: int | None,
        interpreter: Path | None = None,
        shown: Sequence[Path] = (),
        limits: StepLimits | None = None,
        grouped: bool = True,
        output: str | None = None,
    ) -> None:
        self.limits = limits or StepLimits()
        self.tier = tier
        self._data = data
        self._work = work
        self._output = output
        self._who = None if uid is None or os.geteuid() != 0 else Identity(uid, uid)
        self._interpreter = interpreter
        self._shown = [str(path) for path in shown]
        self._grouped = grouped
        self._ground: Ground | None = None
        self._zygote: Zygote | None = None
        self._cgroups: Cgroups | None = None
        self._starting = asyncio.Lock()
        self._at_work = 0
        self._ending: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def python(self) -> Path:
        """The interpreter that a step executes. Only while one goes on."""
        assert self._ground is not None  # noqa: S101 - a step has started it
        return self._ground.interpreter

    async def start(self) -> None:
        """Lay out the files. Raises `SandboxUnavailable`."""
        if self._ground is None:
            self._ground = await asyncio.to_thread(prepare, self._data, self._work, self._interpreter, self._who)

    async def close(self) -> None:
        """End the zygote, and remove what is this object's own. Steps must have ended before."""
        if self._ending is not None:
            self._ending.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._end()
        if self._ground is not None:
            ground, self._ground = self._ground, None
            await asyncio.to_thread(ground.leave)

    async def step(
        self, folder: Path, job: dict[str, Any], network: Network | None = None, packages: Path | None = None
    ) -> dict[str, Any]:
        """Carry a step out in a folder below `work`, which is the child's to write to meanwhile; return its findings.

        `packages` is an environment below `work` that it sees. The folder's content is an adversary's from then on: see `sealed`.
        Raises `StepFailed`, `SandboxUnavailable`.
        """
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        self._at_work += 1
        try:
            await asyncio.to_thread(hand_over, folder, self._who)
            if self._output is not None:
                await asyncio.to_thread(hand_over, folder / self._output, self._who)
            return await self._carried_out(CodePaths(folder, packages), job, network)
        finally:
            self._at_work -= 1
            if not self._at_work:
                self._ending = asyncio.get_running_loop().call_later(_IDLE, self._end_soon)

    async def _carried_out(self, place: CodePaths, job: dict[str, Any], network: Network | None) -> dict[str, Any]:
        zygote, tier = await self._parent()
        folder = place.bundle
        assert self._ground is not None  # noqa: S101 - `_parent` has seen to it
        limits = ChildLimits(
            memory_mb=None,
            open_files=1024,
            processes=self.limits.processes,
            cores=self.limits.cores,
            scratch_mb=self.limits.scratch_mb,
        )
        most = min(self.limits.bytes, (await asyncio.to_thread(shutil.disk_usage, folder)).free // _SHARE)
        opening = frames.encode({"kind": "build", "most_bytes": most, "most_files": self.limits.files, **job})
        groups = self._cgroups if self._cgroups is not None and self._cgroups.held else None
        child = await process.start(zygote, self._ground, self._who, limits, tier, place, groups)
        try:
            watch = asyncio.create_task(self._watched(child, folder, most))
            try:
                ended = await Attempt(child, None, network=network).ended(opening, self.limits.seconds, None)
            finally:
                has_starved = child.has_starved  # what it says of a process that the kernel has killed is not the reason
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
        finally:
            await child.end()
        excess = self._too_much_memory if has_starved else None if watch.cancelled() else watch.result()
        if excess is not None:
            raise StepFailed(excess)
        return _findings(verdict.outcome(ended, self.limits.seconds))

    async def _watched(self, child: Child, folder: Path, most_bytes: int) -> str:
        """Kill the child when it takes more than it may, and return the reason; else until cancelled."""
        while True:
            await asyncio.sleep(_EVERY)
            if child.has_starved or memory.measured(child.pid).memory > self.limits.memory:
                child.starve()
                return self._too_much_memory
            files, size = await asyncio.to_thread(measured, folder)
            if size > most_bytes or files > self.limits.files:
                child.kill()
                return f"it wrote more than {most_bytes >> 20} MB or {self.limits.files} files"

    @property
    def _too_much_memory(self) -> str:
        return f"it took more than {self.limits.memory >> 20} MB of memory"

    async def _parent(self) -> tuple[Zygote, Tier]:
        if self.tier is None:
            raise SandboxUnavailable("no tier of the sandbox stands on this machine")
        await self.start()
        async with self._starting:
            if self._zygote is None or self._zygote.died.done():
                assert self._ground is not None  # noqa: S101 - started above
                if self._grouped and self._cgroups is None:
                    share = Share(self.limits.memory, self.limits.processes, self.limits.cores)
                    self._cgroups = await asyncio.to_thread(Cgroups, share)
                self._zygote = await start_zygote(self._ground, self._who, self.tier, _lost, self._shown, self._output)
            return self._zygote, self.tier

    def _end_soon(self) -> None:
        task = asyncio.create_task(self._end())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self) -> None:
        async with self._starting:
            if self._at_work:
                return
            if self._zygote is not None:
                await self._zygote.end()
                self._zygote = None
            if self._cgroups is not None:
                self._cgroups.close()
                self._cgroups = None


def hand_over(folder: Path, who: Identity | None) -> None:
    """Make a folder, or a file, the child's own."""
    folder.chmod(0o700)
    if who is not None:
        os.chown(folder, who.uid, who.gid)


def measured(folder: Path) -> tuple[int, int]:
    """Return the number of files and folders below a folder, and the bytes that they take. Follows no link."""
    files = size = 0
    left = [str(folder)]
    while left:
        with contextlib.suppress(OSError), os.scandir(left.pop()) as entries:
            for entry in entries:
                files += 1
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)
                    else:
                        size += entry.stat(follow_symlinks=False).st_blocks * 512
    return files, size


def sealed(tree: Path) -> tuple[int, int]:
    """Make a tree that an adversary filled this process's own, for all to read; return its files and bytes.

    The adversary must be dead. Raises `StepFailed` where anything in it is neither a plain file with one name nor a folder.
    """
    owner = (os.geteuid(), os.getegid())
    files = size = 0
    left = [tree]
    while left:
        folder = left.pop()
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise StepFailed(f"{folder.name} is no folder")
        os.chown(folder, *owner)
        folder.chmod(0o755)
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    left.append(Path(entry.path))
                    continue
                status = entry.stat(follow_symlinks=False)
                if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                    raise StepFailed(f"{entry.name[:200]} is no plain file")
                os.chown(entry.path, *owner)
                Path(entry.path).chmod(0o444)
                files += 1
                size += status.st_size
    return files, size


def discard(folder: Path) -> None:
    """Remove a folder that an adversary filled. Follows no link; one that is missing is no error."""
    shutil.rmtree(folder, ignore_errors=True)


def _findings(outcome: Outcome) -> dict[str, Any]:
    if outcome.result is None:
        raise StepFailed(outcome.error.message if outcome.error is not None else f"it {outcome.status}")
    try:
        return msgspec.json.decode(outcome.result, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise StepFailed("its findings cannot be read") from error


def _lost(reason: str) -> None:
    _log.info("builder.zygote_ended", reason=reason)
