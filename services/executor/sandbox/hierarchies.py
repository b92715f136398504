"""Finds the place for control groups, and the values to write into them: both versions of the kernel's interface.

Version 1 mounts each controller by itself: writable ones are used, the others are done without. Version 2 has one tree with
rules that decide where groups can be (Documentation/admin-guide/cgroup-v2.rst, "No Internal Process Constraint"): a group
other than the root gives controllers to the groups in it only while no process is in itself. A service is started in a group,
and so its group cannot hold the runs' groups: they are made beside it, in the group around, where that was delegated to us. It
is not ours to move other processes out of the way.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PERIOD_US = 100_000
"""Microseconds over which CPU is counted: the kernel's own default. A shorter one stops and starts more often."""
RUNS_WEIGHT = 100
"""The weight of all runs together in version 2: as much as the group beside theirs, which holds the executor."""
RUNS_SHARES = 4096
"""The same in version 1, where each process beside theirs weighs 1024: as much as half of Millrace's own eight. On a machine that
does much else, short runs beside a busy one had a p95 of 20 ms, and of 53 with 1024: a little for all is nothing for each."""
_DELEGATED = ("user.delegate", "trusted.delegate")
"""Marks of systemd on a group that it delegates to another process."""
_HOW = "start it in a group below one of its own (systemd: Delegate=yes and DelegateSubgroup=main)"


@dataclass(frozen=True)
class Share:
    """Limits of one run with all that it starts: bytes, processes and threads, cores. None leaves one open."""

    memory: int | None = None
    processes: int | None = None
    cores: float | None = None


@dataclass(frozen=True)
class Control:
    """One controller: the values for a run's group, and for the one around all of them; the file that counts its refusals.

    `optional` values depend on how the kernel was built. `young` is written for a new run, and `old` when it has gone on for
    long.
    """

    each: Mapping[str, str]
    around: Mapping[str, str] = field(default_factory=dict)
    optional: Mapping[str, str] = field(default_factory=dict)
    young: Mapping[str, str] = field(default_factory=dict)
    old: Mapping[str, str] = field(default_factory=dict)
    counter: tuple[str, str] | None = None


@dataclass(frozen=True)
class Tree:
    """One mounted hierarchy with a folder of this supervisor's in which groups may be made."""

    folder: Path
    controls: Mapping[str, Control]

    def make(self, name: str) -> Path:
        """Make a group that holds its members. Raises OSError."""
        group = self.folder / name
        group.mkdir()
        for control in self.controls.values():
            write(group, control.each)
            for file, text in control.optional.items():
                with contextlib.suppress(OSError):
                    write(group, {file: text})
        return group


@dataclass(frozen=True)
class Mounted:
    """One hierarchy that this process is in: the path of its group and its controllers (version 2 lists them itself)."""

    top: Path
    own: Path
    controllers: frozenset[str]
    is_v2: bool


def controls(share: Share, *, is_v2: bool) -> dict[str, Control]:
    """Return the values to write that hold a run to its share. Pure."""
    wanted = {}
    if share.memory is not None:
        size = str(share.memory)
        wanted["memory"] = (
            Control(
                {"memory.max": size}, {}, {"memory.oom.group": "1", "memory.swap.max": "0"}, counter=("memory.events", "oom_kill")
            )
            if is_v2
            else Control(
                {"memory.limit_in_bytes": size},
                {},
                {"memory.memsw.limit_in_bytes": size},
                counter=("memory.oom_control", "oom_kill"),
            )
        )
    if share.processes is not None:
        wanted["pids"] = Control({"pids.max": str(share.processes)}, counter=("pids.events", "max"))
    if share.cores is not None:
        quota = str(int(share.cores * PERIOD_US))
        wanted["cpu"] = (
            Control(
                {"cpu.max": f"{quota} {PERIOD_US}"},
                {"cpu.weight": str(RUNS_WEIGHT)},
                young={"cpu.weight": "100"},
                old={"cpu.weight": "25"},
            )
            if is_v2
            else Control(
                {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": quota},
                {"cpu.shares": str(RUNS_SHARES)},
                young={"cpu.shares": "1024"},
                old={"cpu.shares": "256"},
            )
        )
    return wanted


def mounted(groups: str, mounts: str) -> list[Mounted]:
    """Return the hierarchies in /proc/self/cgroup and /proc/self/mountinfo. Pure."""
    own: dict[frozenset[str], str] = {}
    for line in groups.splitlines():
        _, listed, path = line.split(":", 2)
        own[frozenset(listed.split(",")) if listed else frozenset()] = path
    found = []
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind not in {"cgroup", "cgroup2"}:
            continue
        root, top = before.split(" ")[3:5]
        is_v2 = kind == "cgroup2"
        names = frozenset(option for option in options.split(",") if any(option in group for group in own))
        at = own.get(frozenset() if is_v2 else names)
        if at is None:
            continue
        inside = os.path.relpath(at, root)
        if not inside.startswith(".."):  # another part of the hierarchy is mounted here
            found.append(Mounted(Path(top), Path(top) / inside, names, is_v2))
    return found


def own_hierarchies() -> list[Mounted]:
    """Answer the hierarchies that this process is in."""
    return mounted(Path("/proc/self/cgroup").read_text("utf-8"), Path("/proc/self/mountinfo").read_text("utf-8"))


def parents(where: Mounted) -> Iterator[Path]:
    """Yield the groups in which others may be made: the own one, and in version 2 the one around it where it was given to us."""
    yield where.own
    if where.is_v2 and where.own != where.top and _is_delegated(where.own.parent):
        yield where.own.parent


def open_for(parent: Path, wanted: Mapping[str, Control], *, is_v2: bool) -> tuple[dict[str, Control], dict[str, str]]:
    """Have a group give controllers to those that are made in it; answer which it gives, and why it does not give the others."""
    if not is_v2:
        return dict(wanted), {}
    given, refused = {}, {}
    for name, control in wanted.items():
        try:
            if name not in (parent / "cgroup.controllers").read_text("ascii").split():
                refused[name] = f"{parent} has no such controller"
                continue
            if name not in (parent / "cgroup.subtree_control").read_text("ascii").split():
                (parent / "cgroup.subtree_control").write_text(f"+{name}", "ascii")
        except OSError as error:
            refused[name] = f"{parent} does not pass it on ({error.strerror}): {_HOW}"
            continue
        given[name] = control
    return given, refused


def furnish(folder: Path, wanted: Mapping[str, Control], *, is_v2: bool) -> Tree:
    """Make a group the one around all runs, and try that one in it can be made. Raises OSError."""
    for name, control in wanted.items():
        if is_v2:
            (folder / "cgroup.subtree_control").write_text(f"+{name}", "ascii")
        write(folder, control.around)
    tree = Tree(folder, wanted)
    try:
        tree.make("try")
    finally:
        with contextlib.suppress(FileNotFoundError):
            (folder / "try").rmdir()
    return tree


def door_of(group: Path) -> str:
    """Answer the file through which a process with a single thread gets in: where there is one for threads, that asks for less."""
    return "tasks" if (group / "tasks").exists() else "cgroup.procs"


def _is_delegated(group: Path) -> bool:
    """Return whether this process may arrange a group: its own user's, or, for root, one that is marked so."""
    try:
        if os.geteuid() != 0:
            return group.stat().st_uid == os.geteuid() and os.access(group / "cgroup.subtree_control", os.W_OK)
        return any(os.getxattr(group, mark) == b"1" for mark in _DELEGATED if mark in os.listxattr(group))
    except OSError:
        return False


def write(folder: Path, settings: Mapping[str, str]) -> None:
    """Write into the files of a group. Raises OSError."""
    for file, text in settings.items():
        (folder / file).write_text(text, "ascii")
