"""Calling the author's function, the same way in a run and in `millrace.testing`."""

import asyncio
from collections.abc import Callable
from types import CoroutineType
from typing import Any

from millrace import _suspension

_CLEARING = 1.0
"""Seconds that tasks which the workflow left behind have to end, once they are cancelled."""


def call(
    function: Callable[..., Any],
    args: list[Any],
    kwargs: dict[str, Any],
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    began: Callable[[asyncio.Task[Any]], None],
) -> object:
    """Return the function's result; a coroutine is run to its end on a `new_loop`, and `began` is called with its task before."""
    result = function(*args, **kwargs)
    if not isinstance(result, CoroutineType):
        return result
    loop = new_loop()
    task = loop.create_task(result)
    began(task)
    try:
        return loop.run_until_complete(task)
    finally:
        _suspension.current.close()
        _clear(loop)


def _clear(loop: asyncio.AbstractEventLoop) -> None:
    """Let tasks that the workflow left running meet their cancellation, for a moment; threads are not waited for."""
    left = asyncio.all_tasks(loop)
    if left:
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.wait(left, timeout=_CLEARING))
    loop.run_until_complete(loop.shutdown_asyncgens())
