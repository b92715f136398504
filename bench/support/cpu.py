"""CPU seconds of processes and all that they started, as /proc counts them; where there is none everything reads 0."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
# The benchmark and whatever it started that has no name of its own.
_OURS = "benchmark"


class Meter:
    """Counts from its making on what the named processes consume."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = {**pids, _OURS: os.getpid()}
        self._began = time.monotonic()
        self._before = _consumed(self._pids)
        self._busy_before = _busy()

    def seconds(self) -> dict[str, float]:
        """Return CPU seconds by name. A child that nobody has waited for yet is missing once it is gone."""
        return {name: consumed for name, consumed in self._seconds().items() if name != _OURS}

    def cores(self) -> dict[str, float]:
        """Return how many cores each one has kept busy, on average."""
        elapsed = time.monotonic() - self._began
        return {name: consumed / elapsed for name, consumed in self.seconds().items()}

    def elsewhere(self) -> float:
        """Return how many cores were busy with what is no process of ours, or taken by the host: above 0.1 take care."""
        busy = _busy() - self._busy_before - sum(self._seconds().values())
        return max(0.0, busy / (time.monotonic() - self._began))

    def _seconds(self) -> dict[str, float]:
        now = _consumed(self._pids)
        return {name: now[name] - self._before[name] for name in self._pids}


def _busy() -> float:
    """Return the CPU seconds since boot in which some core was not idle, those that the host took included."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text("ascii").split("\n", 1)[0].split()[1:9]]
    except OSError:
        return 0.0
    user, nice, system, _idle, _waiting, interrupts, soft, stolen = fields
    return (user + nice + system + interrupts + soft + stolen) / _TICKS


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
