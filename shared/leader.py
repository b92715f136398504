"""Periodic work that one replica of a service does at a time: the leader, which holds an advisory lock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from shared import db
from shared.errors import MillraceError
from shared.pull import StreamError

_log = structlog.get_logger()


async def lead(
    once: Callable[[], Awaitable[int]], *, url: str, service: str, lock: str, pause: float, full: int | None, interrupted: str
) -> None:
    """Call `once` for ever while this process holds the advisory lock `lock`, and wait for that lock while another one does.

    `pause` seconds pass before the first call and between two; a call that did as much as `full` is followed by another at once.
    An obstacle is waited out, and logged as the event `interrupted` unless the last interruption had the same reason; a bug is met
    in the same way, and harms only this work.
    """
    logged: str | None = None
    while True:
        # First of all: the others that are asked may be starting, too.
        await asyncio.sleep(pause)
        try:
            async with db.held_lock(url, lock, service=service) as held:
                while not held.lost.is_set():
                    done = await once()
                    logged = None
                    if full is None or done < full:
                        await asyncio.sleep(pause)
        except (MillraceError, StreamError) as error:
            if str(error) != logged:
                logged = str(error)
                _log.warning(interrupted, reason=logged)
        except Exception:
            _log.exception(interrupted)
            await asyncio.sleep(pause)
