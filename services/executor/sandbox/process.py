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


@dataclass(frozen=True)
class Limits:
    """What one child may use. `memory_mb` bounds its address space; None leaves it open."""

    memory_mb: int | None = 1024
    open_files: int = 256


@dataclass(frozen=True)
class Exit:
    """How a process ended: exit code, or minus the signal's number; CPU in ms; peak memory in MB, None when unknown."""

    code: int
    cpu_ms: float
    max_rss_mb: int | None


class Child:
    """A warm child, from `start` on. Whoever has it must `end` it."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", pidfd: int, scratch: Path, output: Output, own_peak_kb: int
    ) -> None:
        loop = asyncio.get_running_loop()
        self.pid = process.pid
        self.output = output
        self.exited: asyncio.Future[Exit] = loop.create_future()
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter
        self._process = process
        self._pidfd = pidfd
        self._scratch = scratch
        self._own_peak_kb = own_peak_kb
        self._peak_kb = 0
        self._cpu_before = 0.0
        loop.add_reader(pidfd, self._reap)

    @property
    def usable(self) -> bool:
        """Whether the process still lives; exact at the moment of asking."""
        return not self.exited.done() and os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

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
        self._look()
        strays = _descendants(self.pid)
        _kill_group(self.pid)
        for pid in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def end(self) -> None:
        """Kill, reap, and let go of descriptors and files. Finishes its work even when it is cancelled."""
        self.kill()
        await _undisturbed(self.exited)
        self.writer.transport.abort()
        self.output.close()
        ground.remove(self._scratch)

    def _look(self) -> None:
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
        # Linux counts the peak of the process that exec'd into `ru_maxrss`: it says something only above the supervisor's.
        reported = usage.ru_maxrss if usage.ru_maxrss > self._own_peak_kb else 0
        peak = max(self._peak_kb, reported)
        self.exited.set_result(
            Exit(
                code=self._process.returncode,
                cpu_ms=max(0.0, usage.ru_utime + usage.ru_stime - self._cpu_before) * 1000,
                max_rss_mb=-(-peak // 1024) if peak else None,
            )
        )


async def start(where: ground.Ground, who: ground.Identity | None, limits: Limits) -> Child:
    """Exec a child and wait until it is ready. Raises `SandboxUnavailable` with what it said if it does not get there."""
    child = await _spawn(where, who, limits)
    try:
        async with asyncio.timeout(_START):
            first = await frames.read(child.reader)
        if first is not None and isinstance(first[0], frames.Ready):
            return child
        reason = "it ended before it was ready"
    except (TimeoutError, FrameError) as error:
        reason = str(error) or f"it was not ready after {_START:.0f} s"
    except BaseException:
        await child.end()
        raise
    child.kill()
    await child.exited
    child.output.drain()
    said = "".join(text for _, text in child.output.take()).strip()
    await child.end()
    msg = f"a child cannot be started: {reason}" + (f"; it said: {said[-2000:]}" if said else "")
    raise SandboxUnavailable(msg)


async def _spawn(where: ground.Ground, who: ground.Identity | None, limits: Limits) -> Child:
    scratch = where.scratch_for_child(who)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    output = Output()
    try:
        process = subprocess.Popen(  # noqa: S603, ASYNC220 - 0.2 ms; a thread would become the parent of the death signal
            [str(where.interpreter), "-I", "-S", "-B", str(where.boot), _setting(where, who, limits)],
            stdin=theirs,
            stdout=output.writable("stdout"),
            stderr=output.writable("stderr"),
            cwd=scratch,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent", "TMPDIR": str(scratch)},
            close_fds=True,
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        output.close()
        ground.remove(scratch)
        msg = f"a child cannot be started: {error}"
        raise SandboxUnavailable(msg) from error
    finally:
        theirs.close()
    output.listen()
    child = Child(process, os.pidfd_open(process.pid), scratch, output, _own_peak_kb())
    ours.setblocking(False)
    child.reader, child.writer = await asyncio.open_connection(sock=ours)
    return child


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
    """Answer those that left the group but still hang on the tree. An orphan that left it is not found: see tier A."""
    found: list[int] = []
    left = [pid]
    while left:
        parent = left.pop()
        try:
            for thread in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{thread}/children", "rb") as file:  # noqa: PTH123
                    children = [int(number) for number in file.read().split()]
                found += children
                left += children
        except OSError:
            continue
    return found


async def _undisturbed(future: "asyncio.Future[Exit]") -> None:
    """Wait for `future` to the end; a cancellation meanwhile is raised after it."""
    disturbed: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as error:
            disturbed = error
    if disturbed is not None:
        raise disturbed
