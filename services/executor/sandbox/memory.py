"""Watches the processes of a run: their memory and their number.

`RLIMIT_AS` bounds each process by itself, and a run may start many; the kernel bounds a tree only by a control group, which
an ordinary user or a container mostly may not make. Where there is none the tree is measured, and ended when it has grown too
large; between two looks it can grow by the memory that can be touched in that time. Where there is one the kernel kills a process
of its choice, and the rest of the tree is ended here.
"""

import asyncio
import os
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

from services.executor.sandbox.process import Child

EVERY = 0.2
"""Seconds between two looks: a look takes some 0.1 ms a process."""
_YOUNG = 1.0
"""Seconds after which a run weighs a quarter: short ones beside a busy one had a p95 of 30 to 118 ms, and have one of 24 to 30."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


async def watch(children: Callable[[], Iterable[Child]], limit: int | None, processes: int, held: Container[str]) -> None:
    """Starve every child whose tree takes more than `limit` bytes of its own, or lost a process to its control group; for ever.

    `held` names the limits left to control groups. Marks a child that has as many as `processes` processes and threads.
    """
    looks_at_memory = limit is not None and "memory" not in held
    looks: WeakKeyDictionary[Child, int] = WeakKeyDictionary()
    while True:
        await asyncio.sleep(EVERY)
        for child in tuple(children()):
            looks[child] = looks.get(child, 0) + 1
            if looks[child] > _YOUNG / EVERY and child.cgroup is not None:
                child.cgroup.grow_old()
            if child.has_starved:
                child.starve()
            elif looks_at_memory or "pids" not in held:
                taken = measured(child.pid)
                child.was_full = child.was_full or taken.tasks >= processes
                if looks_at_memory and limit is not None and taken.memory > limit:
                    child.starve()


class MemoryUse(NamedTuple):
    """Use of a process and its descendants: bytes that they share with no file, and processes with their threads."""

    memory: int
    tasks: int


def measured(pid: int) -> MemoryUse:
    """Return the use of a process and its descendants; nothing for those that are gone."""
    memory = tasks = 0
    left = [pid]
    while left:
        one = left.pop()
        try:
            resident, shared = Path(f"/proc/{one}/statm").read_bytes().split()[1:3]
            memory += (int(resident) - int(shared)) * _PAGE
            for task in os.listdir(f"/proc/{one}/task"):  # noqa: PTH208 - names are all that is needed
                tasks += 1
                left += map(int, Path(f"/proc/{one}/task/{task}/children").read_bytes().split())
        except (OSError, ValueError):
            continue
    return MemoryUse(memory, tasks)
