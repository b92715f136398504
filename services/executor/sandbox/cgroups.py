"""Control groups, where this process may make them: what a run and all that it started may take of memory, held by the kernel.

A group is used by one child after another, since making one takes the kernel longer than entering it; a child is let in
before it runs anybody's code, and the group is free again when nothing of the child is left. Version 2 needs the memory
controller delegated to the group that this process is in (systemd: `Delegate=yes`); version 1 a writable memory hierarchy.
"""

import contextlib
import fcntl
import os
import secrets
from collections import deque
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


class Cgroup:
    """One group with one limit, for one child at a time."""

    def __init__(self, folder: Path, *, is_v2: bool) -> None:
        self.folder = folder
        self._events = folder / ("memory.events" if is_v2 else "memory.oom_control")
        self._seen = 0

    def hold(self, pid: int) -> None:
        """Let a process in; what it starts from now on is in, too. Raises OSError. It may block for some milliseconds."""
        self._seen = self._kills()
        (self.folder / "cgroup.procs").write_text(str(pid), "ascii")

    def has_killed(self) -> bool:
        """Answer whether the kernel has killed a process for want of memory since the last `hold`."""
        return self._kills() > self._seen

    def _kills(self) -> int:
        for line in self._events.read_text("ascii").splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill":
                return int(number)
        return 0


class Cgroups:
    """The groups of one sandbox."""

    def __init__(self, parent: Path, limit: int, *, is_v2: bool) -> None:
        """Raises OSError where `parent` is not ours to change. Clears what supervisors left that are gone."""
        for left in parent.glob("millrace-*"):
            _clear(left)
        self._folder = parent / f"millrace-{os.getpid()}-{secrets.token_hex(4)}"
        self._folder.mkdir()
        self._lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # while it is held, nobody clears this
        self._limit = limit
        self._is_v2 = is_v2
        self._free: deque[Cgroup] = deque()
        self._made: list[Cgroup] = []
        try:
            if is_v2:
                (self._folder / "cgroup.subtree_control").write_text("+memory", "ascii")
            self.give(self.take())
        except OSError:
            self.close()
            raise

    def take(self) -> Cgroup:
        """Answer a group with nobody in it. Raises OSError."""
        if self._free:
            return self._free.popleft()
        folder = self._folder / str(len(self._made))
        folder.mkdir()
        made = Cgroup(folder, is_v2=self._is_v2)
        self._made.append(made)
        if self._is_v2:
            (folder / "memory.max").write_text(str(self._limit), "ascii")
            (folder / "memory.oom.group").write_text("1", "ascii")
            with contextlib.suppress(OSError):  # there is no swap
                (folder / "memory.swap.max").write_text("0", "ascii")
        else:
            (folder / "memory.limit_in_bytes").write_text(str(self._limit), "ascii")
        return made

    def give(self, group: Cgroup) -> None:
        """Take a group back when nothing is left in it."""
        self._free.append(group)

    def close(self) -> None:
        """Remove all groups; everybody must have left them."""
        os.close(self._lock)
        _clear(self._folder)


def _clear(folder: Path) -> None:
    """Remove a sandbox's groups, unless its supervisor lives."""
    with contextlib.suppress(OSError):
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for inner in [one for one in folder.iterdir() if one.is_dir()]:
                inner.rmdir()
            folder.rmdir()
        finally:
            os.close(lock)


def found(limit: int) -> Cgroups | None:
    """Answer groups that hold their members to so many bytes; None where this process may not make them."""
    for line in Path("/proc/self/cgroup").read_text("utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            parent, is_v2 = _ROOT / "memory" / path.lstrip("/"), False
        elif not controllers and (_ROOT / "cgroup.controllers").exists():
            parent, is_v2 = _ROOT / path.lstrip("/"), True
        else:
            continue
        with contextlib.suppress(OSError):
            return Cgroups(parent, limit, is_v2=is_v2)
    return None
