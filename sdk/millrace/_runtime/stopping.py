"""Brings signals to the author's code: SIGTERM as a cancelled task or an exception, so that `finally` blocks run; SIGALRM for
checks that are due even while the author's code holds everything up.
"""

import _signal  # type: ignore[import-not-found] # the module of C behind `signal`
import asyncio
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from millrace import _suspension
from millrace._runtime import blocked
from millrace._runtime.channel import Channel
from millrace.errors import Cancelled

set_handler: Callable[[int, Any], Any] = _signal.signal
"""`signal.signal` without its conversion to enumerations and back, for which a child copies thirty pages. Takes numbers alone."""

DEFAULT = int(signal.SIG_DFL)
_IGNORE = int(signal.SIG_IGN)
_TERM, _ALARM = int(signal.SIGTERM), int(signal.SIGALRM)
_PATIENCE = 1.0
"""Seconds that a cancelled task may hold the event loop up before it is interrupted where it stands."""


class Stopping:
    """Turns SIGTERM into the end of the author's code. Made and used in the main thread."""

    def __init__(self, channel: Channel, bundle: str) -> None:
        self._channel = channel
        self._bundle = bundle
        self._prefix = bundle.rstrip("/") + "/"
        self.task: asyncio.Task[Any] | None = None
        """The author's coroutine, while there is one."""
        self.asked = False
        self._is_timed = False
        self._masks: dict[int, set[int]] = {}
        """What threads that are forking blocked before."""

    def open(self) -> None:
        """Have signals do in forks of the author's what they do without us. To be called once.

        A pool ends its workers by SIGTERM. Python forgets those that come to a fork before its first line, if there is a handler:
        so they are held back until there is none.
        """
        os.register_at_fork(before=self._hold, after_in_parent=self._let_go, after_in_child=self._abandon)

    def listen(self) -> None:
        """From now on a SIGTERM stops the author's code, of which there is no task yet."""
        self.task = None
        set_handler(_TERM, self._stop)
        set_handler(_ALARM, self._ring)

    def attend(self, task: asyncio.Task[Any]) -> None:
        """From now on it is this task that a SIGTERM stops; once it is not short any more, its loop is looked after."""
        self.task = task
        if not self.asked:
            self._is_timed = True
            signal.setitimer(signal.ITIMER_REAL, blocked.LONG)

    def silence(self) -> None:
        """From now on no signal disturbs: the author's code has ended."""
        set_handler(_TERM, _IGNORE)
        if self._is_timed:
            signal.setitimer(signal.ITIMER_REAL, 0)
        set_handler(_ALARM, _IGNORE)
        self._channel.postponed = None

    def _hold(self) -> None:
        self._masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, (_TERM, _ALARM))

    def _let_go(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.pop(threading.get_ident()))

    def _abandon(self) -> None:
        for number, handler in ((_TERM, self._stop), (_ALARM, self._ring)):
            if signal.getsignal(number) == handler:  # and not the author's own, which forks do inherit
                set_handler(number, DEFAULT)
        self._let_go()

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.asked = True
        _suspension.current.close()
        if self.task is None:
            self._raise()
            return
        self.task.cancel()
        self.task.get_loop().call_soon_threadsafe(lambda: None)  # wakes a loop that waits
        self._is_timed = True
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE)

    def _ring(self, _signal: int, frame: FrameType | None) -> None:
        if self.asked:
            self._insist(frame)
        elif self.task is not None:
            blocked.watch(self.task, self._bundle)

    def _insist(self, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code.co_filename.startswith(self._prefix):
                self._raise()
                return
            frame = frame.f_back

    def _raise(self) -> None:
        stop = Cancelled("the attempt is being stopped")
        if self._channel.main_is_sending:
            self._channel.postponed = stop
        else:
            raise stop
