"""One child: exec it, speak to it, kill it with all that it started, reap it.

Every death takes one way: the pidfd becomes readable, the group is killed while the zombie still holds its number, then
`wait4` reaps it. So a number is never signalled after it could belong to somebody else.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from services.executor.sandbox import frames, ground
from services.executor.sandbox.errors import FrameError, SandboxUnavailable
from services.executor.sandbox.output import Output

_START = 30.0
"""Seconds until a child must be ready: some 60 ms on an idle machine, and a margin for a machine that is not."""

_DEATH = 5.0
"""Seconds that a killed descendant has to be gone; only one that hangs in the kernel needs them."""
_MOST_STRAYS = 256
"""Descendants that are killed one by one, each at the cost of a descriptor; a fork bomb is the group's to kill."""


@dataclass(frozen=True)
class Limits:
    """What one child may use. `memory_mb` bounds its address space; None leaves it open."""

    memory_mb: int | None = 1024
    open_files: int = 256


@dataclass(frozen=True)
class Exit:
    """How a process ended: exit code, or minus the signal's number; CPU in ms; peak memory in MB.

    The peak is that before the job where a process died by itself without having grown beyond the supervisor.
    """

    code: int
    cpu_ms: float
    max_rss_mb: int


class Child:
    """A warm child, from `start` on. Whoever has it must `end` it."""

    def __init__(self, process: "subprocess.Popen[bytes]", pidfd: int, scratch: Path, output: Output, own_peak_kb: int) -> None:
        loop = asyncio.get_running_loop()
        self.pid = process.pid
        self.output = output
        self.exited: asyncio.Future[Exit] = loop.create_future()
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter
        self._is_connected = False
        self._strays: list[int] = []
        self._process = process
        self._pidfd = pidfd
        self._scratch = scratch
        self._own_peak_kb = own_peak_kb
        self._peak_kb = 0
        self._cpu_before = 0.0
        loop.add_reader(pidfd, self._reap)

    async def connect(self, control: socket.socket) -> None:
        """Take the supervisor's end of the control socket over."""
        self.reader, self.writer = await asyncio.open_connection(sock=control)
        self._is_connected = True

    @property
    def usable(self) -> bool:
        """Whether the process still lives; exact at the moment of asking."""
        if self.exited.done():
            return False
        return os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def begin(self, frame: bytes) -> None:
        """Hand the job over. From here on CPU counts for it."""
        with contextlib.suppress(OSError):
            self._cpu_before = time.clock_gettime((~self.pid << 3) | 2)  # the CPU clock of that process
        self.writer.write(frame)

    def terminate(self) -> None:
        """Ask the process to end."""
        if not self.exited.done():
            signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process, its group and what descends from it. Returns at once; `exited` follows."""
        if self.exited.done():
            return
        self.look()
        for pid in _descendants(self.pid):
            with contextlib.suppress(OSError):
                stray = os.pidfd_open(pid)
                self._strays.append(stray)
                signal.pidfd_send_signal(stray, signal.SIGKILL)
        _kill_group(self.pid)

    async def end(self) -> None:
        """Kill, reap, and let go of descriptors and files. Finishes its work even when it is cancelled."""
        self.kill()
        await _undisturbed(asyncio.ensure_future(self._let_go()))

    async def _let_go(self) -> None:
        await asyncio.shield(self.exited)
        while self._strays:
            await _gone(self._strays.pop())
        if self._is_connected:
            self.writer.transport.abort()
        self.output.close()
        if not ground.remove_empty(self._scratch):
            await asyncio.to_thread(ground.remove, self._scratch)

    def look(self) -> None:
        """Read the peak memory while there is a process to read it from."""
        try:
            with open(f"/proc/{self.pid}/status", "rb", buffering=0) as file:  # noqa: PTH123 - the hot path
                status = file.read(4096)
            self._peak_kb = int(status.split(b"VmHWM:", 1)[1].split(None, 1)[0])
        except (OSError, IndexError, ValueError):
            return

    def _reap(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pidfd)
        _kill_group(self.pid)
        _, status, usage = os.wait4(self.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        os.close(self._pidfd)
        # Linux counts the peak of the process that exec'd into `ru_maxrss`: only above the supervisor's it is news.
        reported = usage.ru_maxrss if usage.ru_maxrss > self._own_peak_kb else 0
        peak = max(self._peak_kb, reported)
        self.exited.set_result(
            Exit(
                code=self._process.returncode,
                cpu_ms=max(0.0, usage.ru_utime + usage.ru_stime - self._cpu_before) * 1000,
                max_rss_mb=-(-peak // 1024),
            )
        )


async def start(where: ground.Ground, who: ground.Identity | None, limits: Limits) -> Child:
    """Exec a child and wait until it is ready. Raises `SandboxUnavailable`, with what it said, if it does not."""
    child = await _spawn(where, who, limits)
    try:
        async with asyncio.timeout(_START):
            first = await frames.read(child.reader)
        if first is not None and isinstance(first[0], frames.Ready):
            child.look()
            return child
        reason = "it ended before it was ready"
    except (TimeoutError, FrameError) as error:
        reason = str(error) or f"it was not ready after {_START:.0f} s"
    except BaseException:
        await child.end()
        raise
    try:
        child.kill()
        await asyncio.shield(child.exited)
        child.output.drain()
        said = "".join(text for _, text in child.output.take()).strip()
    finally:
        await child.end()
    msg = f"a child cannot be started: {reason}" + (f"; it said: {said[-2000:]}" if said else "")
    raise SandboxUnavailable(msg)


async def _spawn(where: ground.Ground, who: ground.Identity | None, limits: Limits) -> Child:
    with contextlib.ExitStack() as undo:
        try:
            scratch = where.scratch_for_child(who)
            undo.callback(ground.remove, scratch)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            undo.callback(ours.close)
            with theirs:
                output = Output()
                undo.callback(output.close)
                process = _popen(where, _setting(where, who, limits), scratch, theirs, output)
            undo.callback(process.wait)
            undo.callback(process.kill)
            pidfd = os.pidfd_open(process.pid)
        except OSError as error:
            msg = f"a child cannot be started: {error}"
            raise SandboxUnavailable(msg) from error
        output.listen()
        child = Child(process, pidfd, scratch, output, _own_peak_kb())
        undo.pop_all()
    try:
        ours.setblocking(False)  # noqa: FBT003
        await child.connect(ours)
    except BaseException:
        ours.close()
        await child.end()
        raise
    return child


def _popen(where: ground.Ground, setting: str, scratch: Path, control: socket.socket, output: Output) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [str(where.interpreter), "-I", "-S", "-B", str(where.boot), setting],
        stdin=control.fileno(),
        stdout=output.writable("stdout"),
        stderr=output.writable("stderr"),
        cwd=scratch,
        env={
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": "/nonexistent",
            "TMPDIR": str(scratch),
            **({"LD_LIBRARY_PATH": where.libraries} if where.libraries else {}),
        },
        close_fds=True,
        start_new_session=True,
    )


def _setting(where: ground.Ground, who: ground.Identity | None, limits: Limits) -> str:
    return json.dumps(
        {
            "uid": None if who is None else who.uid,
            "gid": None if who is None else who.gid,
            "parent": os.getpid(),
            "package": str(where.package),
            "open_files": limits.open_files,
            "memory_bytes": None if limits.memory_mb is None else limits.memory_mb << 20,
        }
    )


def _own_peak_kb() -> int:
    status = Path("/proc/self/status").read_bytes()
    return int(status.split(b"VmHWM:", 1)[1].split(None, 1)[0])


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    """Answer what hangs on the tree, in the group or not. An orphan that left the group is not found: see tier A."""
    found: list[int] = []
    left = [pid]
    while left and len(found) < _MOST_STRAYS:
        parent = left.pop()
        try:
            for thread in os.listdir(f"/proc/{parent}/task"):  # noqa: PTH208 - in the path of every run
                with open(f"/proc/{parent}/task/{thread}/children", "rb") as file:  # noqa: PTH123
                    children = [int(number) for number in file.read().split()]
                found += children
                left += children
        except OSError:
            continue
    return found[:_MOST_STRAYS]


async def _gone(pidfd: int) -> None:
    """Wait for the end of a killed process that is not ours to reap, and close its descriptor."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), _DEATH)
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


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
