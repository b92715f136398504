"""Has services forked by `deploy.forkserver`: they become children of this process, as those that it starts itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from deploy import launch

if TYPE_CHECKING:
    from deploy.supervise import Program

PR_SET_CHILD_SUBREAPER = 36
# Seconds for an answer, with what its imports take on a machine with much else to do.
WITHIN = 30.0


class Forked:
    """A child of this process that another one has forked, with what supervision uses of asyncio's processes."""

    def __init__(self, pid: int) -> None:
        """Watch for its end; OSError where the kernel has no descriptors of processes."""
        self.pid = pid
        self.returncode: int | None = None
        self._ended = asyncio.Event()
        descriptor = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(descriptor, self._reap, descriptor)

    async def wait(self) -> int:
        """Return its exit code, or minus the number of the signal that ended it, once it has ended."""
        await self._ended.wait()
        assert self.returncode is not None  # noqa: S101 (set before the event is)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Signal it unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def _reap(self, descriptor: int) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        try:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            # It never became ours, since the process that forked it died in between.
            self.returncode = launch.ORPHANED
        self._ended.set()


class Forking:
    """The way to the fork server."""

    def __init__(self) -> None:
        """Open the way; nobody answers yet."""
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)  # noqa: FBT003
        self._one_at_a_time = asyncio.Lock()
        self.server: int | None = None
        """The pid of the fork server; None while it is down."""

    @property
    def descriptor(self) -> int:
        """What the fork server is given; it stays open here too, so that the next one goes on with it."""
        return self._theirs.fileno()

    def close(self) -> None:
        """End the way, and with it the fork server."""
        self._ours.close()
        self._theirs.close()

    def is_now(self, server: int | None) -> None:
        """Take note of the fork server's pid. What the one before has not taken is answered by nobody."""
        self.server = server
        with contextlib.suppress(BlockingIOError):
            while server is None and self._theirs.recv(1, socket.MSG_DONTWAIT):
                pass  # the descriptor that came with it is closed, since nobody takes it

    async def fork(self, program: Program, log: int) -> Forked | None:
        """Start a service in a session of its own; None where it cannot be done, and nothing of it is left then."""
        async with self._one_at_a_time:
            if self.server is None:
                return None
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours:
                ours.setblocking(False)  # noqa: FBT003
                try:
                    with _adopting():
                        with theirs:
                            socket.send_fds(self._ours, [b"\0".join(map(os.fsencode, program.command))], [theirs.fileno()])
                        async with asyncio.timeout(WITHIN):
                            pid = await asyncio.get_running_loop().sock_recv(ours, 32)
                    forked = Forked(int(pid))
                    socket.send_fds(ours, [_told(program)], [log, *program.descriptors])
                except TimeoutError:
                    if self.server is not None:
                        os.kill(self.server, signal.SIGKILL)  # it hangs; another one is started
                except (OSError, ValueError):
                    pass
                else:
                    return forked
        return None


def _told(program: Program) -> bytes:
    return msgspec.json.encode(
        {
            "environment": program.environment,
            "directory": str(program.directory),
            "descriptors": program.descriptors,
            "niceness": program.niceness,
            "death_signal": int(program.stop_signals[0]),
            "parent": os.getpid(),
        }
    )


def is_possible() -> bool:
    """Whether this system has what forking needs: adoption, and descriptors of processes."""
    try:
        with _adopting():
            os.close(os.pidfd_open(os.getpid()))
    except (OSError, AttributeError):
        return False
    return sys.platform == "linux"


@contextlib.contextmanager
def _adopting() -> Iterator[None]:
    """Be the parent of descendants whose own parent ends meanwhile. Only then: nobody here waits for the ends of others."""
    launch.control(PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        launch.control(PR_SET_CHILD_SUBREAPER, 0)
