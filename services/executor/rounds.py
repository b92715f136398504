"""Work that goes round and round, of which several replicas do one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from shared import db
from shared.errors import MillraceError
from shared.pull import StreamError

_log = structlog.get_logger()


async def go_round(once: Callable[[], Awaitable[int]], *, url: str, lock: str, pause: float, full: int | None, waits: str) -> None:
    """Call `once` for ever under the advisory lock `lock`, with `pause` seconds before the first round and between two.

    A round that did as much as `full` is followed by another at once. What stands in the way is waited out, and logged as the event
    `waits` where it was not the last time's; a bug is met in the same way, and hurts nobody but this work.
    """
    said: str | None = None
    while True:
        # First of all: the others that are asked may be starting, too.
        await asyncio.sleep(pause)
        try:
            async with db.held_lock(url, lock, service="executor") as held:
                while not held.lost.is_set():
                    done = await once()
                    said = None
                    if full is None or done < full:
                        await asyncio.sleep(pause)
        except (MillraceError, StreamError) as error:
            if str(error) != said:
                said = str(error)
                _log.warning(waits, reason=said)
        except Exception:
            _log.exception(waits)
            await asyncio.sleep(pause)
