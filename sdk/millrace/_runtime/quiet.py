"""Decides whether anything of a run goes on beside its durable waits. Looks at the event loop, tasks and threads; changes nothing.

A run goes on where a task waits for anything but a wait of ours, and there is something that could end its waiting: a timer that
is near, a socket, a thread. A task that waits for a wait of ours, directly or through `gather`, `wait`, `shield`, a task group or
other tasks, does not go on; nor does one that waits for another to set an event, or to put something into a queue.
"""

import asyncio
import asyncio.locks
import asyncio.queues
import functools
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import thread as workers
from typing import Any

NEAR = 60.0
"""Seconds up to which a task that sleeps is waited for in this process; a longer sleep is gone on with by a later attempt."""
OURS = "millrace-answers"
_STANDS_BY = "/millrace/_suspension.py"
_INSIDE = frozenset({asyncio.locks.__file__, asyncio.queues.__file__})


def goes_on(
    loop: asyncio.AbstractEventLoop, waits: Iterable["asyncio.Future[Any]"], others: frozenset[threading.Thread] = frozenset()
) -> bool:
    """Answer whether there is anything that may still happen in this process; `others` are threads that are not the run's."""
    inner: Any = loop
    if has_more(loop) or threads_go_on(others):
        return True
    tasks = list(asyncio.all_tasks(loop))
    idle: set[Any] = {task for task in tasks if _waits_inside(task)}
    held = _behind([*waits, *idle], tasks)
    if all(task in idle or _waiter(task) in held for task in tasks):
        return False
    soon = next_timer(loop)
    return (soon is not None and soon - loop.time() <= NEAR) or _has_sockets(inner) or threads_go_on(others, daemons=True)


def has_more(loop: asyncio.AbstractEventLoop) -> bool:
    """Answer whether the loop has anything to do at once."""
    inner: Any = loop
    return bool(inner._ready)


def next_timer(loop: asyncio.AbstractEventLoop) -> float | None:
    """Answer the time, by the loop's clock, at which the nearest timer fires."""
    inner: Any = loop
    return min((handle.when() for handle in inner._scheduled if not handle.cancelled()), default=None)


def threads_go_on(others: frozenset[threading.Thread], *, daemons: bool = False, main: bool = False) -> bool:
    """Return whether a thread beside this one is at work; daemons, and the main one, count only on request."""
    frames = sys._current_frames()
    for thread in threading.enumerate():
        if thread is threading.current_thread() or thread.name == OURS:
            continue
        is_main = thread is threading.main_thread()
        if (not main if is_main else thread in others) or (thread.daemon and not daemons):
            continue
        frame = frames.get(thread.ident or 0)
        if frame is not None and not _is_idle(thread, frame.f_code.co_filename, frame.f_code.co_name):
            return True
    return False


def _is_idle(thread: threading.Thread, file: str, function: str) -> bool:
    """Answer whether a thread waits for another, or for work."""
    if file == threading.__file__ or (file == workers.__file__ and function == "_worker") or file.endswith(_STANDS_BY):
        return True
    # The thread of a pool of processes; it waits for those.
    return getattr(thread, "pending_work_items", None) == {}


def _has_sockets(loop: Any) -> bool:
    return any(key.fileobj not in (loop._ssock, loop._ssock.fileno()) for key in loop._selector.get_map().values())


def _waiter(task: Any) -> Any:
    return task._fut_waiter


def _waits_inside(task: "asyncio.Task[Any]") -> bool:
    """Answer whether a task waits for another task, by a lock, an event or a queue."""
    at: Any = task.get_coro()
    while True:
        below = getattr(at, "cr_await", None) or getattr(at, "gi_yieldfrom", None) or getattr(at, "ag_await", None)
        if below is None or isinstance(below, asyncio.Future):
            break
        if not any(hasattr(below, name) for name in ("cr_frame", "gi_frame", "ag_frame")):
            break
        at = below
    frame = getattr(at, "cr_frame", None) or getattr(at, "gi_frame", None) or getattr(at, "ag_frame", None)
    return frame is not None and frame.f_code.co_filename in _INSIDE


def _behind(waits: Iterable[Any], tasks: Iterable[Any]) -> set[Any]:
    """Answer the futures that can only be done once one of these is, and these."""
    by_waiter: dict[Any, list[Any]] = {}
    for task in tasks:
        by_waiter.setdefault(_waiter(task), []).append(task)
    found: set[Any] = set()
    left = list(waits)
    while left:
        one = left.pop()
        if one in found:
            continue
        found.add(one)
        left += by_waiter.get(one, [])
        for callback, _ in one._callbacks or ():
            left += _futures_of(callback)
    return found


def _futures_of(callback: Any) -> Iterator[Any]:
    """Yield the futures that a callback may complete: those that it holds."""
    if isinstance(callback, functools.partial):
        yield from (one for one in (*callback.args, *callback.keywords.values()) if isinstance(one, asyncio.Future))
        yield from _futures_of(callback.func)
        return
    for cell in getattr(callback, "__closure__", None) or ():
        try:
            held = cell.cell_contents
        except ValueError:  # it is still empty
            continue
        if isinstance(held, asyncio.Future):
            yield held
    owner = getattr(callback, "__self__", None)
    if owner is not None and not isinstance(owner, asyncio.Future):
        yield from (one for one in getattr(owner, "__dict__", {}).values() if isinstance(one, asyncio.Future))
