"""The machine, or the control group that bounds this process: how much of its cores and its memory is in use, by whomever.

Read from `/proc` and from the files of both versions of control groups. What a system does not tell is left out: without `/proc`
the load average stands for the use of the cores, and nothing is known of the memory.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from services.executor.sandbox.hierarchies import Mounted, own_hierarchies

_MB = 1 << 20
# Version 1 says "no limit" as a number near the largest.
_UNLIMITED = 1 << 60
_TICKS = os.sysconf("SC_CLK_TCK")


class MemoryLeft(NamedTuple):
    """How much memory there is, and how much of it is left, in MB."""

    total_mb: float
    free_mb: float


class Machine:
    """Measures. `cores` is how many this process and its children may use together."""

    def __init__(
        self, hierarchies: Sequence[Mounted] | None = None, *, proc: Path = Path("/proc"), now: Callable[[], float] = time.monotonic
    ) -> None:
        self._proc = proc
        self._now = now
        if hierarchies is None:
            try:
                hierarchies = own_hierarchies()
            except (OSError, ValueError):
                hierarchies = ()
        told = [one for one in hierarchies if one.is_v2 or not one.controllers.isdisjoint({"cpu", "memory"})]
        self._groups = [(one, folder) for one in told for folder in _outwards(one)]
        self._all = os.cpu_count() or 1
        self._usage, self._quota = self._tightest()
        able = getattr(os, "sched_getaffinity", None)
        self.cores = min(self._quota, float(self._all if able is None else len(able(0))))
        self._before = self._seconds()

    def busy(self) -> float:
        """Return the part of the cores that was in use since the last call: of the group's or of all, what is more in use."""
        before, self._before = self._before, self._seconds()
        passed = self._before[0] - before[0]
        if passed <= 0:
            return 0.0
        if self._before[1] is None or before[1] is None:
            return min(1.0, os.getloadavg()[0] / self._all)
        parts = [(self._before[1] - before[1]) / (passed * self._all)]
        if self._before[2] is not None and before[2] is not None:
            parts.append((self._before[2] - before[2]) / (passed * self._quota))
        return max(0.0, min(1.0, max(parts)))

    def memory(self) -> MemoryLeft | None:
        """Return the memory of what is tightest; None where nothing tells."""
        found = [one for one in (self._of_machine(), *map(_of_group, self._groups)) if one is not None]
        return min(found, key=lambda one: one.free_mb, default=None)

    def _seconds(self) -> tuple[float, float | None, float | None]:
        """Return the time, and the seconds of all cores that were used by then: of the machine's, and of the group's."""
        machine = None
        with contextlib.suppress(OSError, ValueError):
            user, nice, system, _idle, _io, irq, soft, *_ = (self._proc / "stat").read_text("ascii").splitlines()[0].split()[1:]
            machine = sum(map(int, (user, nice, system, irq, soft))) / _TICKS
        return self._now(), machine, None if self._usage is None else self._usage()

    def _of_machine(self) -> MemoryLeft | None:
        with contextlib.suppress(OSError, KeyError, ValueError):
            lines = (self._proc / "meminfo").read_text("ascii").splitlines()
            fields = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if rest.split()}
            return MemoryLeft(fields["MemTotal"] / 1024, fields["MemAvailable"] / 1024)
        return None

    def _tightest(self) -> tuple[Callable[[], float | None] | None, float]:
        """Return how the use of the group with the smallest quota of cores is read, and that quota."""
        found: list[tuple[float, Callable[[], float | None]]] = []
        for where, folder in self._groups:
            with contextlib.suppress(OSError, ValueError):
                if where.is_v2:
                    quota, period = (folder / "cpu.max").read_text("ascii").split()
                    if quota != "max":
                        found.append((int(quota) / int(period), partial(_field, folder / "cpu.stat", "usage_usec", 1e6)))
                elif "cpu" in where.controllers:
                    limit = int((folder / "cpu.cfs_quota_us").read_text("ascii"))
                    if limit > 0:
                        each = int((folder / "cpu.cfs_period_us").read_text("ascii"))
                        found.append((limit / each, partial(_number, folder / "cpuacct.usage", 1e9)))
        quota_of, usage = min(found, key=lambda one: one[0], default=(float(self._all), None))
        return usage, quota_of


def _outwards(where: Mounted) -> Iterator[Path]:
    """Yield the folder of the own group and those around it."""
    folder = where.own
    while folder != where.top and where.top in folder.parents:
        yield folder
        folder = folder.parent
    yield where.top


def _of_group(group: tuple[Mounted, Path]) -> MemoryLeft | None:
    where, folder = group
    if not where.is_v2 and "memory" not in where.controllers:
        return None
    names = ("memory.max", "memory.current") if where.is_v2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    limit, usage = (_number(folder / name) for name in names)
    if limit is None or usage is None or limit >= _UNLIMITED:
        return None
    # Pages of files that nobody has used lately are given back when others are wanted.
    cached = _field(folder / "memory.stat", "inactive_file" if where.is_v2 else "total_inactive_file") or 0.0
    return MemoryLeft(limit / _MB, (limit - usage + cached) / _MB)


def _number(file: Path, unit: float = 1.0) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        return int(file.read_text("ascii")) / unit
    return None


def _field(file: Path, wanted: str, unit: float = 1.0) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text("ascii").splitlines():
            name, _, number = line.partition(" ")
            if name == wanted:
                return int(number) / unit
    return None
