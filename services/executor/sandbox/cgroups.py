"""Control groups, where this process may make them: the kernel's limits on a run and all its processes.

Memory, processes with their threads, and CPU; each where its controller is to be had, and the rest by other means (`memory`,
limits of each process) or not at all: `Cgroups.held` and `refused` hold which and why. A group is used by one child after
another, since making one takes the kernel longer than entering it, and is free again when nothing of the child is left. A child
enters by itself, through descriptors that it is given and before it runs an author's code: a process that moves only itself
need not wait for all processors, as one that is moved by another must. `hierarchies` finds the place for groups and their values.
"""

import contextlib
import fcntl
import itertools
import os
import secrets
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from services.executor.sandbox.hierarchies import (
    Control,
    Mounted,
    Share,
    Tree,
    controls,
    door_of,
    furnish,
    open_for,
    own_hierarchies,
    parents,
    write,
)


class Cgroup:
    """One group, in as many hierarchies as there are, for one child at a time. Its owner must `close` it."""

    def __init__(
        self, folders: Mapping[str, Path], counters: Mapping[str, tuple[Path, str]], controls: Mapping[str, Control]
    ) -> None:
        """Raises OSError."""
        self.folders = folders
        """By controller; one folder may stand for several."""
        self.doors: list[int] = []
        """Descriptors: a process that writes "0" to each of them is in, with all that it starts from then on. The kernel checks the
        rights of the process that opened them (`cgroup_attach_permissions`, `__cgroup1_procs_write`; since Linux 5.16 and its
        stable predecessors)."""
        self._controls = controls
        self._is_old = False
        self._counters: dict[str, tuple[int, bytes]] = {}
        self._seen: dict[str, int] = {}
        try:
            for folder in dict.fromkeys(folders.values()):
                self.doors.append(os.open(folder / door_of(folder), os.O_WRONLY | os.O_CLOEXEC))
            for name, (file, key) in counters.items():
                self._counters[name] = (os.open(file, os.O_RDONLY | os.O_CLOEXEC), key.encode("ascii"))
        except OSError:
            self.close()
            raise

    def renew(self) -> None:
        """Clear the state of the last child. Raises OSError."""
        self._seen = {name: self._count(name) for name in self._counters}
        if self._is_old:
            self._is_old = False
            for name, folder in self.folders.items():
                write(folder, self._controls[name].young)

    def grow_old(self) -> None:
        """Lower the run's CPU weight from now on: long runs wait a little for short ones."""
        if self._is_old:
            return
        self._is_old = True
        with contextlib.suppress(OSError):  # no wall depends on it
            for name, folder in self.folders.items():
                write(folder, self._controls[name].old)

    def has_killed(self) -> bool:
        """Answer whether the kernel has killed a process for want of memory since the last `renew`."""
        return self._has_counted("memory")

    def has_refused(self) -> bool:
        """Answer whether the kernel has refused to start a process or a thread since the last `renew`: there were too many."""
        return self._has_counted("pids")

    def is_empty(self) -> bool:
        """Return whether it holds no process. Raises OSError."""
        return not any((folder / "cgroup.procs").read_bytes() for folder in self.folders.values())

    def close(self) -> None:
        """Let go of the descriptors."""
        while self.doors:
            os.close(self.doors.pop())
        while self._counters:
            os.close(self._counters.popitem()[1][0])

    def _has_counted(self, name: str) -> bool:
        return name in self._counters and self._count(name) > self._seen.get(name, 0)

    def _count(self, name: str) -> int:
        file, key = self._counters[name]
        for line in os.pread(file, 4096, 0).splitlines():
            found, _, number = line.partition(b" ")
            if found == key:
                return int(number)
        return 0


class Cgroups:
    """The groups of one sandbox, in every hierarchy that is open to it; there may be none. The owner must `close` it."""

    def __init__(self, share: Share, hierarchies: Sequence[Mounted] | None = None) -> None:
        """`hierarchies` are those of this process unless given. Clears the groups of supervisors that are gone."""
        self._name = f"millrace-{os.getpid()}-{secrets.token_hex(4)}"
        self._locks: list[int] = []
        self._trees: list[Tree] = []
        self._all: list[Cgroup] = []
        self._free: deque[Cgroup] = deque()
        self._doubtful: list[Cgroup] = []
        self._names = itertools.count()
        self.refused = dict.fromkeys(
            controls(share, is_v2=True), "it is not mounted, or not the part of it that this process is in"
        )
        """Why a controller that was asked for is not used, by its name."""
        for where in own_hierarchies() if hierarchies is None else hierarchies:
            left = {name: one for name, one in controls(share, is_v2=where.is_v2).items() if name not in self.held}
            self._settle(where, {name: one for name, one in left.items() if where.is_v2 or name in where.controllers})

    @property
    def held(self) -> tuple[str, ...]:
        """Answer which of "memory", "pids" and "cpu" the kernel holds for each run."""
        return tuple(name for tree in self._trees for name in tree.controls)

    def take(self) -> Cgroup:
        """Return an empty group. Raises OSError."""
        group = self._emptied() or self._new()
        try:
            group.renew()
        except OSError:
            self.give(group)
            raise
        return group

    def _emptied(self) -> Cgroup | None:
        if self._free:
            return self._free.popleft()
        for group in self._doubtful:
            if group.is_empty():
                self._doubtful.remove(group)
                return group
        return None

    def _new(self) -> Cgroup:
        folders: dict[str, Path] = {}
        counters: dict[str, tuple[Path, str]] = {}
        all_controls: dict[str, Control] = {}
        # Of one that could be made only in part the folders stay: its name is not used again.
        number = str(next(self._names))
        for tree in self._trees:
            folder = tree.make(number)
            all_controls |= tree.controls
            for name, control in tree.controls.items():
                folders[name] = folder
                if control.counter is not None:
                    counters[name] = (folder / control.counter[0], control.counter[1])
        group = Cgroup(folders, counters, all_controls)
        self._all.append(group)
        return group

    def give(self, group: Cgroup) -> None:
        """Take a group back when nothing is left in it."""
        self._free.append(group)

    def give_in_doubt(self, group: Cgroup) -> None:
        """Take a group back that may still hold a process about to end."""
        self._doubtful.append(group)

    def close(self) -> None:
        """Remove all groups, which must be empty."""
        while self._all:
            self._all.pop().close()
        self._free.clear()
        self._doubtful.clear()
        while self._locks:
            os.close(self._locks.pop())
        for tree in self._trees:
            _clear(tree.folder)
        self._trees.clear()

    def _settle(self, where: Mounted, wanted: dict[str, Control]) -> None:
        """Use a hierarchy for the wanted controllers, in the first group that allows them."""
        for parent in parents(where):
            if not wanted:
                return
            with _alone_in(parent):
                for left in parent.glob("millrace-*"):
                    _clear(left)
                given, refused = open_for(parent, wanted, is_v2=where.is_v2)
                if given and (problem := self._use(parent, given, is_v2=where.is_v2)):
                    refused |= dict.fromkeys(given, problem)
            if self._trees and self._trees[-1].folder.parent == parent:
                self.refused = {name: told for name, told in (self.refused | refused).items() if name not in self.held}
                return  # one place in a hierarchy: a process cannot be in two groups of it
            if parent == where.own:  # of all places, the one that an operator would look for
                self.refused |= refused

    def _use(self, parent: Path, given: dict[str, Control], *, is_v2: bool) -> str | None:
        """Make our folder in a group; answer why that is impossible."""
        folder = parent / self._name
        lock = -1
        try:
            folder.mkdir()
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)  # while it is held, no supervisor clears this
            self._trees.append(furnish(folder, given, is_v2=is_v2))
        except OSError as error:
            if lock >= 0:
                os.close(lock)
                _clear(folder)
            return f"{parent} cannot be changed ({error.strerror})"
        self._locks.append(lock)
        return None


@contextlib.contextmanager
def _alone_in(parent: Path) -> Iterator[None]:
    """Keep other supervisors from clearing a group that is made and not yet locked."""
    gate = -1
    with contextlib.suppress(OSError):  # then nothing can be made in it either
        gate = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(gate, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if gate >= 0:
            os.close(gate)


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
