"""Bounding how long an author's file may take to be imported, with the line at which it hangs."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

_AGAIN = 0.5
"""Seconds after which code that has caught `TooSlow` gets it again."""


class TooSlow(BaseException):
    """The time is over. Its traceback shows where the author's code was."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise `TooSlow` in the block when it takes longer. In the main thread only."""

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
