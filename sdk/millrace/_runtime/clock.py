"""The event loop of a run, with the run's own clock: a later attempt repeats work at the times of the earlier one."""

import asyncio
import functools
import selectors
from collections.abc import Callable
from typing import Any


class Loop(asyncio.SelectorEventLoop):
    """An event loop that may be some seconds behind the machine's clock, and catches up with the recorded times.

    A timer that an earlier attempt had set thus ends at the same time in every attempt.
    """

    def __init__(self, behind: float = 0.0) -> None:
        self._behind = behind
        # Not epoll, whose watches the kernel counts over all runs together: one could leave the others none. Of 256 descriptors
        # poll takes some microseconds.
        super().__init__(selectors.PollSelector())

    def time(self) -> float:
        """Return the run's time."""
        return super().time() - self._behind

    def reach(self, ago: float) -> None:
        """Go on to the time so many seconds ago; 0 for now. The clock is never put back."""
        self._behind = min(self._behind, ago)

    def skip(self, to: float) -> None:
        """Go on to a time without waiting for it."""
        self._behind -= max(0.0, to - self.time())

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override]
        """Do as every loop does, but for StopIteration, which no future can hold: awaiting it would never end."""
        return super().run_in_executor(executor, functools.partial(returned, func), *args)


def returned(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a plain function. StopIteration comes out as RuntimeError, as from a coroutine."""
    try:
        return function(*args, **kwargs)
    except StopIteration as error:
        while isinstance(function, functools.partial):
            function = function.func
        msg = f"{getattr(function, '__name__', 'the function')} raised StopIteration"
        raise RuntimeError(msg) from error
