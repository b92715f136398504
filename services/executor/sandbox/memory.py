"""What a run and all that it started take of the machine's memory, looked at while it runs.

`RLIMIT_AS` bounds each process by itself, and a run may start many; the kernel bounds a tree only by a control group, which
an ordinary user or a container mostly may not make. Where there is none the tree is measured, and ended when it has grown too
large; between two looks it can grow by what can be touched in that time. Where there is one the kernel kills what it likes of the
tree, and the rest is ended here.
"""

import asyncio
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from services.executor.sandbox.process import Child

EVERY = 0.2
"""Seconds between two looks: a look takes some 0.1 ms a process."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


async def watch(children: Callable[[], Iterable[Child]], limit: int) -> None:
    """Starve every child whose tree takes more than `limit` bytes of its own, or lost a process to its control group; for ever."""
    while True:
        await asyncio.sleep(EVERY)
        for child in tuple(children()):
            if child.has_starved or (child.cgroup is None and held(child.pid) > limit):
                child.starve()


def held(pid: int) -> int:
    """Answer the bytes that a process and its descendants hold and share with no file; 0 for what is gone."""
    total = 0
    left = [pid]
    while left:
        one = left.pop()
        try:
            resident, shared = Path(f"/proc/{one}/statm").read_bytes().split()[1:3]
            total += (int(resident) - int(shared)) * _PAGE
            for task in os.listdir(f"/proc/{one}/task"):  # noqa: PTH208 - names are all that is needed
                left += map(int, Path(f"/proc/{one}/task/{task}/children").read_bytes().split())
        except (OSError, ValueError):
            continue
    return total
