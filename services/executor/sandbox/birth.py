"""One child of a zygote: known by its pidfd, from the request to the report of its end."""

import asyncio
import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable
from typing import Any

from services.executor.sandbox.errors import SandboxUnavailable
from services.executor.sandbox.reports import ChildEnded

_REPORT = 10.0
"""Seconds in which a zygote reports a dead child: it takes less than a millisecond, or some on a busy machine."""


class Birth:
    """One child of a zygote or template, from the request on.

    `ended` becomes its parent's report, or None if the parent died before it could give one; then the child is dead
    too. `swept` is done when its descendants are gone as well; never before `ended`. `on_stuck` is called when the
    child is dead and the parent does not report it: then the parent is stopped or stuck.
    """

    def __init__(self, parent: str, on_stuck: Callable[[], None]) -> None:
        """`parent` names the kind of process that forks it."""
        loop = asyncio.get_running_loop()
        self.parent = parent
        self.pid = 0
        self.listener: socket.socket | None = None
        """The listening socket of its way out, where that came with the report of the birth. Closed at the end."""
        self.born: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[ChildEnded | None] = loop.create_future()
        self.swept: asyncio.Future[None] = loop.create_future()
        self._on_stuck = on_stuck
        self._pidfd = -1
        self.is_lost = False
        """Whether the parent is known to be dead."""
        self._is_unwanted = False
        self._overdue: asyncio.TimerHandle | None = None

    @property
    def alive(self) -> bool:
        """Whether the process lives; exact at the moment of asking."""
        return self._pidfd >= 0 and not _is_readable(self._pidfd)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if there still is one."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        """Kill the process, also one that is yet to be born. The zygote kills its descendants."""
        self._is_unwanted = True
        if self._pidfd >= 0 and self._overdue is None:
            self.signal(signal.SIGKILL)
            self._overdue = asyncio.get_running_loop().call_later(_REPORT, self._check_report)

    def check(self) -> None:
        """Report the forking process as stuck where there is no child after all that time."""
        if not self.born.done():
            self._on_stuck()

    def begin(self, pidfd: int) -> None:
        """Record the birth; the descriptor is this object's from now on."""
        self.pid, self._pidfd = pid_of(pidfd), pidfd
        if self._is_unwanted:
            self.kill()
        settle(self.born, None)

    def end(self, report: ChildEnded) -> None:
        """Record the death."""
        self._let_go()
        settle(self.ended, report)
        if report.swept:
            settle(self.swept, None)

    def fail(self, message: str) -> None:
        """Record that there will be no process."""
        if not self.born.done():
            self.born.set_exception(SandboxUnavailable(message))
            self.born.exception()  # the caller may be gone
        settle(self.ended, None)
        settle(self.swept, None)

    def lose(self, message: str) -> None:
        """Record that the parent is dead. Its children die with it; this one is killed to make sure."""
        self.is_lost = True
        if self.ended.done() or self._pidfd < 0:
            self.fail(message)
            return
        self.signal(signal.SIGKILL)
        asyncio.get_running_loop().add_reader(self._pidfd, self._is_gone)

    def _is_gone(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._let_go()
        self.fail("")

    def _let_go(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self.listener is not None:
            self.listener.close()

    def _check_report(self) -> None:
        if self._pidfd < 0 or self.ended.done():
            return
        if self.alive:  # hanging in the kernel: not the zygote's fault
            self._overdue = asyncio.get_running_loop().call_later(_REPORT, self._check_report)
        else:
            self._on_stuck()


def pid_of(pidfd: int) -> int:
    """Answer the number that a process has in this PID namespace; -1 where it is already gone."""
    with open(f"/proc/self/fdinfo/{pidfd}", "rb", buffering=0) as file:  # noqa: PTH123 - in the path of every run
        return int(file.read(1024).split(b"\nPid:", 1)[1].split(None, 1)[0])


def _is_readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def settle(future: "asyncio.Future[Any]", value: object) -> None:
    """Give a future its value, unless it has one."""
    if not future.done():
        future.set_result(value)
