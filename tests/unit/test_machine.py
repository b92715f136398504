"""What is left of a machine, or of the control group around this process, as its files tell it."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.executor.sandbox.hierarchies import Mounted
from services.executor.sandbox.machine import Machine

MB = 1 << 20


class Files:
    """A machine of four cores and 8,000 MB as files."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.top, self.own = folder / "proc", folder / "top", folder / "top" / "box" / "own"
        self.now = 0.0
        for one in (self.proc, self.own):
            one.mkdir(parents=True)
        self.write(self.proc / "meminfo", "MemTotal: 8192000 kB\nMemFree: 1 kB\nMemAvailable: 6144000 kB\n")
        self.used(0)

    def write(self, file: Path, text: str) -> None:
        file.write_text(text, "ascii")

    def used(self, ticks: int) -> None:
        """Have all cores used for so many hundredths of a second by now; what waits for a disk does not count."""
        self.write(self.proc / "stat", f"cpu  {ticks} 0 0 999 5000 0 0 0 0 0\ncpu0 1 2 3\n")

    def machine(self, *, is_v2: bool, controllers: frozenset[str] = frozenset()) -> Machine:
        where = Mounted(self.top, self.own, controllers, is_v2)
        return Machine([where], proc=self.proc, now=lambda: self.now)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))
    return Files(tmp_path)


def test_without_a_limit_it_is_the_machine_that_counts(files: Files) -> None:
    machine = files.machine(is_v2=True)
    assert machine.cores == 4
    assert machine.memory() == (8000, 6000)
    files.now = 2.0
    files.used(400)
    assert machine.busy() == 0.5
    files.now = 4.0
    assert machine.busy() == 0.0


def test_the_tightest_group_of_version_2_counts(files: Files) -> None:
    box = files.own.parent
    files.write(box / "cpu.max", "50000 100000\n")
    files.write(files.own / "cpu.max", "max 100000\n")
    files.write(box / "cpu.stat", "usage_usec 0\n")
    files.write(files.top / "cpu.max", "max 100000\n")
    for file, text in {
        "memory.max": f"{1000 * MB}",
        "memory.current": f"{900 * MB}",
        "memory.stat": f"inactive_file {300 * MB}",
    }.items():
        files.write(box / file, text)
    files.write(files.own / "memory.max", "max")
    files.write(files.own / "memory.current", "1")
    machine = files.machine(is_v2=True)
    assert machine.cores == 0.5
    assert machine.memory() == (1000, 400)
    files.now = 2.0
    files.write(box / "cpu.stat", "usage_usec 900000\nuser_usec 1\n")
    assert machine.busy() == pytest.approx(0.9), "of its half core, while the machine has three and a half to spare"


def test_so_does_that_of_version_1(files: Files) -> None:
    files.write(files.own / "cpu.cfs_quota_us", "200000")
    files.write(files.own / "cpu.cfs_period_us", "100000")
    files.write(files.own / "cpuacct.usage", "0")
    files.write(files.top / "cpu.cfs_quota_us", "-1")
    files.write(files.own / "memory.limit_in_bytes", f"{500 * MB}")
    files.write(files.own / "memory.usage_in_bytes", f"{100 * MB}")
    files.write(files.top / "memory.limit_in_bytes", f"{(1 << 63) - 4096}")
    files.write(files.top / "memory.usage_in_bytes", f"{100 * MB}")
    machine = files.machine(is_v2=False, controllers=frozenset({"cpu", "cpuacct", "memory"}))
    assert machine.cores == 2
    assert machine.memory() == (500, 400)
    files.now = 1.0
    files.write(files.own / "cpuacct.usage", "500000000")
    assert machine.busy() == 0.25


def test_where_nothing_tells_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (1.0, 0.0, 0.0))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    now = iter(range(10))
    machine = Machine([], proc=tmp_path, now=lambda: float(next(now)))
    assert machine.memory() is None
    assert machine.busy() == 0.25
