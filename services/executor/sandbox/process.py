"""One child: have it forked, speak to it, measure it, kill it, and clear up after it."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.executor.sandbox import frames, ground
from services.executor.sandbox.birth import Birth, settle
from services.executor.sandbox.cgroups import Cgroup, Cgroups
from services.executor.sandbox.control import ControlSocket
from services.executor.sandbox.errors import FrameError, SandboxUnavailable
from services.executor.sandbox.fork_server import ForkServer
from services.executor.sandbox.interface import Tier
from services.executor.sandbox.masking import Masker
from services.executor.sandbox.output import ChildOutput

_SIGNALLED = 128
"""What is added to a signal's number by a process that reports another's end by its own exit code."""
_START = 30.0
"""Seconds until a child must be ready: some 5 ms on an idle machine, and a margin for a machine that is not."""


@dataclass(frozen=True)
class ChildLimits:
    """Limits of one child. `memory_mb` bounds its address space; None leaves it open."""

    memory_mb: int | None = 1024
    open_files: int = 256
    processes: int = 128
    """Processes and threads together; where a control group holds them, and in tier A."""
    cores: float | None = 1.0
    """CPU of all its processes and threads together, where a control group holds it. One core is what one interpreter can use: more
    would only serve runs that start many, at the cost of all others."""
    scratch_mb: int = 64
    """Size of its temporary files; in tier A, where they are memory."""


@dataclass(frozen=True)
class CodePaths:
    """The code that a child gets to see: a bundle, and its environment if it has one. Both lie below the sandbox's `code`."""

    bundle: Path
    packages: Path | None


@dataclass(frozen=True)
class ChildExit:
    """The end of a process: exit code, or minus the signal's number; CPU in ms; peak memory in MB.

    The code is None where the process was not waited for: the child had answered, and was killed.
    """

    code: int | None
    cpu_ms: float
    max_rss_mb: int


class Child:
    """A warm child, from `start` on. Its owner must `end` it."""

    def __init__(
        self,
        birth: Birth,
        scratch: Path | None,
        output: ChildOutput,
        place: CodePaths | None,
        groups: Cgroups | None,
        group: Cgroup | None,
    ) -> None:
        self.output = output
        self.exited: asyncio.Future[ChildExit | None] = asyncio.get_running_loop().create_future()
        """Becomes None where the process that forked it died first: then this child's end is unknown."""
        self.egress_listener: socket.socket | None = None
        """The socket of the run's only way out, in tiers A and B: on the loopback, listening, not blocking. Closed by `end`."""
        self.on_starved: Callable[[], None] = _nothing
        """Called when it took more memory than it may; then it is about to be killed."""
        self.cgroup = group
        """The control group that it alone is in, where there are any."""
        self.was_full = False
        """Whether the child was seen at its limit of processes and threads."""
        self.proxy: str | None = None
        """The address that it uses for its proxy."""
        self.masker: Masker | None = None
        """Masks the secrets that its runs were given."""
        self.place = place
        """The bundle that it was placed with; it can run nothing else any more."""
        self.control: ControlSocket
        """Frames to and from it, from `greet` on. Closed by `end`."""
        self._is_connected = False
        self._birth = birth
        self._scratch = scratch
        self._groups = groups
        self._cpu_before = 0.0
        self.is_forked = False
        """Whether its runs are forks of it; then they are measured, and it is not."""
        self._fork = -1
        """The fork that waits for a job, or has the last one."""
        self._figures: list[int] = []
        """What the kernel counts for it, once it was asked for: two files of /proc, open, for those that serve several runs."""
        birth.ended.add_done_callback(self._set_exit)

    async def greet(self, control: socket.socket) -> None:
        """Take the supervisor's end of the control socket over and wait for the child's first word on it."""
        try:
            first, self.egress_listener = await _greeting(control)
            await asyncio.shield(self._birth.born)
            self.egress_listener = self.egress_listener or self._birth.listener
            self.control = await ControlSocket.over(control)
        except BaseException:
            control.close()
            raise
        self._is_connected = True
        if not isinstance(first, frames.Placed if self.place is not None else frames.Ready):
            msg = "it ended before it was ready"
            raise FrameError(msg)

    async def put(self, place: CodePaths) -> None:
        """Have the last walls closed around one bundle. Raises `SandboxUnavailable`; then the child has been ended."""
        self.control.write(frames.encode(_wire_paths(place)))
        await self.answered(self._await_placed())
        self.place = place

    async def _await_placed(self) -> None:
        if not isinstance(await self.control.read(), frames.Placed):
            msg = "it ended before it was placed"
            raise FrameError(msg)

    async def answered(self, answer: Coroutine[Any, Any, None]) -> None:
        """Wait for an answer of the child before it has a job. Without one the child ends; `SandboxUnavailable` has the reason."""
        try:
            async with asyncio.timeout(_START):
                await answer
            return
        except (TimeoutError, FrameError, OSError) as error:
            self._birth.check()
            reason = str(error) or f"it did not answer in {_START:.0f} s"
        except BaseException:
            await self.end()
            raise
        try:
            self.kill()
            await asyncio.shield(self.exited)
            self.output.drain()
            output = "".join(text for _, text in self.output.take()).strip()
        finally:
            await self.end()
        msg = f"a child cannot be started: {reason}" + (f"; it said: {output[-2000:]}" if output else "")
        raise SandboxUnavailable(msg)

    @property
    def pid(self) -> int:
        """Answer its number in this PID namespace; 0 until it is born."""
        return self._birth.pid

    @property
    def parent(self) -> str:
        """Answer the kind of the process that forked it, by which it lives: "zygote" or "template"."""
        return self._birth.parent

    @property
    def usable(self) -> bool:
        """Whether the process still lives, and is not about to follow its parent."""
        return self._birth.alive and not self._birth.is_lost

    def begin(self, frame: bytes) -> None:
        """Hand the job over. From here on CPU counts for it."""
        with contextlib.suppress(OSError):
            self._cpu_before = _cpu_seconds(self._fork if self.is_forked else self.pid)
        self.control.write(frame)

    @property
    def cpu_seconds(self) -> float:
        """What its process has used of a core since its job was handed over; 0 where nothing tells."""
        if not self._cpu_before:
            return 0.0
        try:
            return max(0.0, _cpu_seconds(self._fork if self.is_forked else self.pid) - self._cpu_before)
        except OSError:
            return 0.0

    def terminate(self) -> None:
        """Ask the process to end."""
        self._birth.signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process; its descendants are killed as soon as it is dead. Returns at once; `exited` follows."""
        self._birth.kill()

    def used(self) -> ChildExit | None:
        """Measure a process that still lives; None where only its exit gives the use of it and its descendants."""
        if self.is_forked:
            return self._used_by_forks()
        try:
            cpu = _cpu_seconds(self.pid)
            if not self._figures:
                for name in ("stat", "status"):
                    self._figures.append(os.open(f"/proc/{self.pid}/{name}", os.O_RDONLY | os.O_CLOEXEC))
            stat, status = [os.pread(figures, 4096, 0) for figures in self._figures]
            fields = stat.rpartition(b")")[2].split(None, 9)
            # At the start of a line: a process names itself, and its name comes before.
            peak_kb = int(status.split(b"\nVmHWM:", 1)[1].split(None, 1)[0])
        except (OSError, IndexError, ValueError):
            return None
        has_waited = fields[8] != b"0"  # page faults of descendants that it waited for: no process lives without
        # Only now is it certain that the number was its own all the while.
        return None if has_waited or not self._birth.alive else self._exit(None, cpu, peak_kb)

    def _used_by_forks(self) -> ChildExit:
        """Measure the run that is a fork of this process, as long as that lives."""
        cpu, peak_kb = 0.0, 0
        with contextlib.suppress(OSError, IndexError, ValueError):
            for pid in _children(self.pid):
                fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
                waited_for = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
                cpu += _cpu_seconds(pid) + waited_for
                peak_kb = max(peak_kb, int(Path(f"/proc/{pid}/status").read_bytes().split(b"VmHWM:", 1)[1].split(None, 1)[0]))
        return self._exit(None, cpu, peak_kb)

    def has_forked(self) -> bool:
        """Return whether nothing descends from it but one process that was not there at the last time: the last run is gone."""
        try:
            before, (self._fork,) = self._fork, _children(self.pid)
        except (OSError, ValueError):
            return False
        return self._fork != before

    @property
    def is_full(self) -> bool:
        """Whether the child was refused a process or a thread at its limit."""
        return self.was_full or (self.cgroup is not None and self.cgroup.has_refused())

    @property
    def has_starved(self) -> bool:
        """Whether the kernel has killed the child, or a process that it started, for want of memory."""
        return self.cgroup is not None and self.cgroup.has_killed()

    def starve(self) -> None:
        """Kill the process because it and its descendants take too much memory."""
        self.on_starved()
        self.kill()

    async def end(self) -> None:
        """Kill it with all that it started; let go of descriptors and files. Finishes its work even when cancelled."""
        await _undisturbed(self.ending())

    def ending(self) -> "asyncio.Task[None]":
        """Kill it with all that it started, and begin to let go of descriptors and files; the task ends when all of it is done."""
        self.kill()
        return asyncio.create_task(self._let_go())

    async def _let_go(self) -> None:
        while self._figures:
            os.close(self._figures.pop())
        if self._is_connected:
            self.control.close()
        if self.egress_listener is not None:
            self.egress_listener.close()
        for done in (self._birth.ended, self._birth.swept):
            if not done.done():
                await asyncio.shield(done)
        if self._groups is not None and self.cgroup is not None:
            self._groups.give(self.cgroup)
            self._groups = None
        self.output.close()
        if self._scratch is not None and not ground.remove_empty(self._scratch):
            await asyncio.to_thread(ground.remove, self._scratch)

    def _set_exit(self, _ended: object) -> None:
        report = self._birth.ended.result()
        self.exited.set_result(None if report is None else self._exit(report.code, report.cpu_ms / 1000, report.max_rss_kb))

    def _exit(self, code: int | None, cpu_seconds: float, peak_kb: int) -> ChildExit:
        if self.is_forked and code is not None and code > _SIGNALLED:
            code = _SIGNALLED - code  # its fork was ended by a signal, which it cannot end by itself
        return ChildExit(code, max(0.0, cpu_seconds - self._cpu_before) * 1000, -(-peak_kb // 1024))


async def start(
    parent: ForkServer,
    where: ground.Ground,
    who: ground.Identity | None,
    limits: ChildLimits,
    tier: Tier,
    place: CodePaths | None = None,
    groups: Cgroups | None = None,
) -> Child:
    """Have a child forked by the zygote, or by the place's template, in one of the `groups`.

    Waits until it stands in its place, or is ready to be given one.

    Raises `SandboxUnavailable`, with its output.
    """
    with contextlib.ExitStack() as undo:
        try:
            scratch = None
            if tier != "A":  # whose children mount their own
                scratch = where.scratch_for_child(who)
                undo.callback(ground.remove, scratch)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            undo.callback(ours.close)
            output = ChildOutput()
            undo.callback(output.close)
            group = None
            if groups is not None:
                group = groups.take()
                undo.callback(groups.give_in_doubt, group)
        except OSError as error:
            msg = f"a child cannot be started: {error}"
            raise SandboxUnavailable(msg) from error
        order = {"scratch": None if scratch is None else str(scratch), **wire_limits(limits, place)} if parent.takes_orders else {}
        with theirs:
            doors = () if group is None else group.doors
            birth = parent.request(order, theirs.fileno(), output.writable("stdout"), output.writable("stderr"), doors)
        output.listen()
        child = Child(birth, scratch, output, place, groups, group)
        child.proxy = parent.proxy
        undo.pop_all()
    ours.setblocking(False)  # noqa: FBT003
    await child.answered(child.greet(ours))
    return child


async def _greeting(control: socket.socket) -> tuple[frames.Frame | None, socket.socket | None]:
    """Receive the first frame and the listening socket that may come with it, which no stream could."""
    loop = asyncio.get_running_loop()
    arrived = loop.create_future()
    loop.add_reader(control, settle, arrived, None)
    try:
        await arrived
    finally:
        loop.remove_reader(control)
    data, descriptors, _, _ = socket.recv_fds(control, 4096, 1, socket.MSG_CMSG_CLOEXEC)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, descriptors[0]) if descriptors else None
    if listener is not None:
        listener.setblocking(False)  # noqa: FBT003
    return (frames.decode(data[4:]) if data else None), listener


def wire_limits(limits: ChildLimits, place: CodePaths | None) -> dict[str, Any]:
    """Return limits and place in the form that a zygote or template reads."""
    return {
        "place": None if place is None else _wire_paths(place),
        "scratch_bytes": limits.scratch_mb << 20,
        "open_files": limits.open_files,
        "processes": limits.processes,
        "memory_bytes": None if limits.memory_mb is None else limits.memory_mb << 20,
    }


def _wire_paths(place: CodePaths) -> dict[str, str | None]:
    """Return the paths of a place in the form that a child reads."""
    return {"bundle": str(place.bundle), "packages": None if place.packages is None else str(place.packages)}


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_bytes().split()]


def _nothing() -> None:
    pass


def _cpu_seconds(pid: int) -> float:
    return time.clock_gettime((~pid << 3) | 2)  # the CPU clock of that process


async def _undisturbed(future: "asyncio.Future[None]") -> None:
    """Wait for `future` to the end; a cancellation meanwhile is raised after it."""
    disturbed: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as error:
            disturbed = error
    future.result()
    if disturbed is not None:
        raise disturbed
