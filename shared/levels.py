"""Has a service log from the level on that an operator has set for it, at each replica as soon as it hears of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from datetime import datetime

import structlog

from shared import log
from shared.bus import Bus
from shared.envelope import utc_now
from shared.health import Health
from shared.registry import RegistryView
from shared.resources.level import LevelEntry
from shared.values import moment_of

# Seconds after which the clock is looked at in any case: it may have been set.
LONGEST = 60.0

_log = structlog.get_logger()


def is_active(entry: LevelEntry, now: datetime) -> bool:
    """Return whether a level is in force: not after its end, nor where that is none."""
    try:
        return entry.spec.until is None or now < moment_of(entry.spec.until)
    except ValueError:
        return False


def level_at(now: datetime, entries: Iterable[LevelEntry], service: str) -> str:
    """Return the level from which on a service logs."""
    return next((one.spec.level for one in entries if one.name == service and is_active(one, now)), log.DEFAULT)


def _ends(now: datetime, entries: Iterable[LevelEntry], service: str) -> float:
    """Return after how many seconds a level of a service that is in force ends, or the clock is to be looked at."""
    ends = (moment_of(one.spec.until) for one in entries if one.name == service and one.spec.until and is_active(one, now))
    return min((max(0.0, (end - now).total_seconds()) for end in ends), default=LONGEST)


async def follow_level(bus: Bus, health: Health, now: Callable[[], datetime] = utc_now) -> None:
    """Set the level of this process for ever, by the registry: it is there after a restart too."""
    view = RegistryView(bus.client, "levels", LevelEntry, health)
    async with asyncio.TaskGroup() as group:
        group.create_task(view.run())
        while True:
            moment = now()
            before, wanted = log.level(), level_at(moment, view.values(), bus.service)
            if wanted != before:
                log.set_level(wanted)
                _log.warning("log.level_changed", before=before, after=wanted)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(LONGEST, _ends(moment, view.values(), bus.service))):
                    await view.has_changed()
