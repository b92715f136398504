"""Keeps environments within bounds: what was not used for a while goes, and what was used longest ago where there is too much."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

import msgspec
import structlog

from services.executor.environments.disk import Disk
from services.executor.environments.environments import Environments
from services.executor.environments.wheels import FACTS, Facts

MOST_BYTES = 10 << 30
"""Of all wheels together, unpacked and compiled. Environments are other names of the same files."""
UNUSED = 14 * 24 * 3600.0
"""Seconds without a run after which an environment goes. It is built again from its wheels, in a moment, when one comes.

What a resolver keeps for an organization goes after as long."""
UNUSED_WHEEL = 60 * 24 * 3600.0
"""Seconds without a build after which a wheel goes: as long as it is here its index need not be."""
RECENT = 3600.0
"""Seconds after its last use for which nothing goes: another executor on the same folder may have a run with it."""
EVERY = 60.0
_log = structlog.get_logger()


class Housekeeping:
    """Looks after the environments of one disk."""

    def __init__(self, disk: Disk, environments: Environments, *, most_bytes: int = MOST_BYTES) -> None:
        self._disk = disk
        self._environments = environments
        self._most_bytes = most_bytes
        self._state: dict[str, Any] = {"built": 0, "wheels": 0, "bytes": 0, "most_bytes": most_bytes}

    def state(self) -> dict[str, Any]:
        """Return how many environments and wheels there were at the last look, and their bytes; as JSON."""
        return self._state

    async def run(self) -> None:
        """Look after them, for ever."""
        while True:
            try:
                await self.look(time.time())
            except OSError as error:
                _log.warning("environment.not_looked_after", reason=str(error))
            await asyncio.sleep(EVERY)

    async def look(self, now: float) -> None:
        """Remove what is to go, as of `now` in seconds of the epoch."""
        await asyncio.to_thread(self._look, now)

    def _look(self, now: float) -> None:
        built = _by_age(self._disk.built)
        for used, folder in built:
            if self._environments.is_held(folder):
                with contextlib.suppress(FileNotFoundError):
                    os.utime(folder)
            elif now - used > UNUSED:
                _remove(folder)
        for used, folder in _by_age(self._disk.resolving):
            if now - used > UNUSED:
                _remove(folder)
        wheels = [(used, folder, _bytes(folder)) for used, folder in _by_age(self._disk.wheels)]
        for used, folder, _ in wheels:
            if now - used > UNUSED_WHEEL:
                _remove(folder)
        wheels = [one for one in wheels if one[1].is_dir()]
        total = sum(size for _, _, size in wheels)
        # Files go with their last name: environments first, which are nothing but names.
        if total > self._most_bytes:
            for used, folder in built:
                if now - used > RECENT and not self._environments.is_held(folder):
                    _remove(folder)
        for used, folder, size in wheels:
            if total <= self._most_bytes:
                break
            if now - used > RECENT:
                _remove(folder)
                total -= size
        left = [folder for _, folder, _ in wheels if folder.is_dir()]
        count = len(list(self._disk.built.iterdir()))
        self._state = {"built": count, "wheels": len(left), "bytes": total, "most_bytes": self._most_bytes}


def _by_age(folder: Path) -> list[tuple[float, Path]]:
    """Return what is in a folder with the time of its last use, the oldest first."""
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another executor on the same folder was faster
            found.append((path.stat().st_mtime, path))
    return sorted(found)


def _bytes(wheel: Path) -> int:
    try:
        return msgspec.json.decode((wheel / FACTS).read_bytes(), type=Facts).bytes
    except (OSError, msgspec.MsgspecError):
        return 0


def _remove(folder: Path) -> None:
    """Remove a folder, out of sight first: nobody finds half of it."""
    away = folder.with_name(f".{folder.name}.gone")
    try:
        folder.rename(away)
    except OSError:
        return
    shutil.rmtree(away, ignore_errors=True)
    _log.info("environment.removed", name=folder.name)
