"""Keeps environments within bounds: what was not used for a while goes, and what was used longest ago where there is too much.

Where there is too much the organization that has brought most gives way first, with what it used longest ago.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections import Counter
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
    """Looks after the environments of one disk: `most_bytes` of wheels, `most_each` of those that one organization has brought."""

    def __init__(
        self, disk: Disk, environments: Environments, *, most_bytes: int = MOST_BYTES, most_each: int | None = None
    ) -> None:
        self._disk = disk
        self._environments = environments
        self._most_bytes = most_bytes
        self._most_each = most_bytes if most_each is None else most_each
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
        wheels = [(used, folder, _facts(folder)) for used, folder in _by_age(self._disk.wheels)]
        for used, folder, _ in wheels:
            if now - used > UNUSED_WHEEL:
                _remove(folder)
        wheels = [one for one in wheels if one[1].is_dir()]
        kept = Counter[str]()
        for _, _, facts in wheels:
            kept[facts.owner] += facts.bytes
        # Files go with their last name: environments first, which are nothing but names.
        if self._are_too_many(kept):
            for used, folder in built:
                if now - used > RECENT and not self._environments.is_held(folder):
                    _remove(folder)
        old = {owner: [one for one in wheels if one[2].owner == owner and now - one[0] > RECENT] for owner in kept}
        while self._are_too_many(kept) and any(old.values()):
            owner = max((one for one in old if old[one]), key=lambda one: kept[one])
            if kept.total() <= self._most_bytes and kept[owner] <= self._most_each:
                break  # those of the one that has too much were all used just now
            _, folder, facts = old[owner].pop(0)
            _remove(folder)
            kept[owner] -= facts.bytes
        self._environments.count(kept)
        total = kept.total()
        left = [folder for _, folder, _ in wheels if folder.is_dir()]
        count = len(list(self._disk.built.iterdir()))
        self._state = {"built": count, "wheels": len(left), "bytes": total, "most_bytes": self._most_bytes}

    def _are_too_many(self, kept: Counter[str]) -> bool:
        return kept.total() > self._most_bytes or any(size > self._most_each for owner, size in kept.items() if owner)


def _by_age(folder: Path) -> list[tuple[float, Path]]:
    """Return what is in a folder with the time of its last use, the oldest first."""
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another executor on the same folder was faster
            found.append((path.stat().st_mtime, path))
    return sorted(found)


def _facts(wheel: Path) -> Facts:
    try:
        return msgspec.json.decode((wheel / FACTS).read_bytes(), type=Facts)
    except (OSError, msgspec.MsgspecError):
        return Facts(0, 0)


def _remove(folder: Path) -> None:
    """Remove a folder, out of sight first: nobody finds half of it."""
    away = folder.with_name(f".{folder.name}.gone")
    try:
        folder.rename(away)
    except OSError:
        return
    shutil.rmtree(away, ignore_errors=True)
    _log.info("environment.removed", name=folder.name)
