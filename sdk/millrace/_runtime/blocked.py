"""Reports when a coroutine workflow holds its event loop up: nothing else of it goes on meanwhile, and nothing fails.

Costs nothing before a workflow is `LONG` seconds old: then a timer's signal starts a thread that looks on. The signal is needed
because a loop that is held up from its first moment would never come to start anything. A call that keeps Python's own lock all
the time holds this thread up too, and is not seen.
"""

import _thread
import asyncio
import contextlib
import os
import sys
import threading
import time
from typing import Any

from millrace._log import log

LONG = 1.0
"""Seconds without a turn of the loop that are worth a line."""
_EVERY = 0.25
"""Seconds between two looks."""
_ADVICE = (
    "nothing else of this run goes on meanwhile: use an async client, or await step(…) or asyncio.to_thread(…) around the call"
)


def watch(task: asyncio.Task[Any], bundle: str) -> None:
    """Look on from a thread of its own, until the task is done. Call it in its loop's thread; safe in a signal handler."""
    # Not threading.Thread: its start takes locks of that module, which the code that the signal interrupted may hold.
    with contextlib.suppress(RuntimeError):  # no thread to be had: the workflow has them all, and matters more
        _thread.start_new_thread(_look, (task, threading.get_ident(), bundle))


def _look(task: asyncio.Task[Any], thread: int, bundle: str) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed
        while not task.done():
            _one_turn(task, thread, bundle)


def _one_turn(task: asyncio.Task[Any], thread: int, bundle: str) -> None:
    """Wait until the task's loop has turned once; report each time that it took `LONG`, twice as long, four times as long, …"""
    turns: list[None] = []
    task.get_loop().call_soon_threadsafe(turns.append, None)
    waited, worth_a_line, before = 0.0, LONG, time.monotonic()
    while True:
        time.sleep(_EVERY)
        now = time.monotonic()
        # A machine that stands still, or has no time for this process, holds this thread up too: that is not the author's doing.
        waited += min(now - before, 2 * _EVERY)
        before = now
        if turns or task.done():
            return
        if waited >= worth_a_line:
            worth_a_line *= 2
            log.warning("loop.blocked", seconds=round(waited, 1), at=_place(thread, bundle), advice=_ADVICE)


def _place(thread: int, bundle: str) -> str | None:
    """Answer `path:line` of the author's innermost frame; where there is none, of the innermost at all."""
    innermost = frame = sys._current_frames().get(thread)
    prefix = bundle.rstrip("/") + "/"
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(prefix):
            return f"{os.path.relpath(name, bundle)}:{frame.f_lineno}"
        frame = frame.f_back
    return None if innermost is None else f"{innermost.f_code.co_filename}:{innermost.f_lineno}"
