"""Has a service log from the level on that an operator has set for it, at each replica within a second."""

from __future__ import annotations

import asyncio
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

# Seconds between two looks at what is set, and at the clock.
EVERY = 0.5

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


async def follow_level(bus: Bus, health: Health, now: Callable[[], datetime] = utc_now) -> None:
    """Set the level of this process for ever, by the registry: it is there after a restart too."""
    view = RegistryView(bus.client, "levels", LevelEntry, health)
    async with asyncio.TaskGroup() as group:
        group.create_task(view.run())
        while True:
            before, wanted = log.level(), level_at(now(), view.values(), bus.service)
            if wanted != before:
                log.set_level(wanted)
                _log.warning("log.level_changed", before=before, after=wanted)
            await asyncio.sleep(EVERY)
