"""Periodic work that one replica of a service does at a time: the leader, which holds an advisory lock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from shared import db, tasks
from shared.errors import MillraceError, Unavailable
from shared.pull import StreamError

_log = structlog.get_logger()


async def lead(
    once: Callable[[], Awaitable[int]],
    *,
    url: str,
    service: str,
    lock: str,
    pause: float,
    interrupted: str,
    full: int | None = None,
    first: float | None = None,
    again: float | None = None,
) -> None:
    """Call `once` for ever while this process holds the advisory lock `lock`, and wait for that lock while another one does.

    `pause` seconds pass between two calls, `first` before the first one, and `again` after an obstacle: the same unless given. A
    call that did as much as `full` is followed by another at once. A call that is under way when the lock is lost is cancelled, so
    that one may go on for ever. An obstacle is logged as the event `interrupted` unless the last interruption had the same reason;
    a bug is met in the same way, and harms only this work.
    """
    logged: str | None = None
    # The others that are asked may be starting, too.
    wait = pause if first is None else first
    while True:
        await asyncio.sleep(wait)
        wait = pause if again is None else again
        try:
            async with db.held_lock(url, lock, service=service) as held:
                while not held.lost.is_set():
                    done = await _while_held(once, held)
                    logged = None
                    if full is None or done < full:
                        await asyncio.sleep(pause)
        except (MillraceError, StreamError) as error:
            if str(error) != logged:
                logged = str(error)
                _log.warning(interrupted, reason=logged)
        except Exception:
            _log.exception(interrupted)


async def _while_held(once: Callable[[], Awaitable[int]], held: db.HeldLock) -> int:
    """Return what a call did. Raises `Unavailable` where the lock was lost before the end: the call is cancelled."""
    work, lost = asyncio.ensure_future(once()), asyncio.create_task(held.lost.wait())
    try:
        await asyncio.wait((work, lost), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise Unavailable("the connection that holds the lock was lost")
        return work.result()
    finally:
        await tasks.end([one for one in (work, lost) if isinstance(one, asyncio.Task)])
