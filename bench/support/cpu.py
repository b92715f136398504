"""CPU seconds of processes and all that they started, as /proc counts them; where there is none everything reads 0."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


class Meter:
    """Counts from its making on what the named processes consume."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._began = time.monotonic()
        self._before = _consumed(pids)

    def seconds(self) -> dict[str, float]:
        """Return CPU seconds by name. A child that nobody has waited for yet is missing once it is gone."""
        now = _consumed(self._pids)
        return {name: now[name] - self._before[name] for name in self._pids}

    def cores(self) -> dict[str, float]:
        """Return how many cores each one has kept busy, on average."""
        elapsed = time.monotonic() - self._began
        return {name: consumed / elapsed for name, consumed in self.seconds().items()}


def _consumed(pids: Mapping[str, int]) -> dict[str, float]:
    ticks: dict[int, int] = {}
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text("utf-8", "replace").rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(stat.parent.name)
        parents[pid] = int(fields[1])
        # utime, stime, and those of children that were waited for.
        ticks[pid] = sum(int(field) for field in fields[11:15])
    owners = {pid: name for name, pid in pids.items()}
    sums = dict.fromkeys(pids, 0)
    for pid, consumed in ticks.items():
        ancestor = pid
        while ancestor and ancestor not in owners:
            ancestor = parents.get(ancestor, 0)
        if ancestor:
            sums[owners[ancestor]] += consumed
    return {name: total / _TICKS for name, total in sums.items()}
