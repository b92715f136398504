"""What many runs leave behind: zombies, processes, descriptors, slots, control groups, files and memory, before and after.

Ten thousand runs of every kind of end, most of them short and well, on one sandbox; counted when the pool is warm, and again
when the last run is gone and the pool as it was. Then the sandbox is closed, and counted once more: nothing may be left at all.
The figure is how many things were left; wanted: 0. `per_s` is beside it, since ten thousand runs are also a measure of endurance.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections import Counter
from pathlib import Path

import click
import msgspec

from bench.support import outcome
from bench.support.outcome import Outcome
from services.executor.sandbox.cgroups import Cgroups
from services.executor.sandbox.children import SANDBOX_UID, Children
from services.executor.sandbox.interface import Job
from services.executor.sandbox.process import ChildLimits
from tests.support.sandbox import Recorded, below

AT_ONCE = 12
ODD_ONE_IN = 25
"""Every so many runs end badly, each time in the next of the ways below."""
WAYS = {
    "raises": "raise ValueError",
    "exits": "os._exit(3)",
    "crashes": "ctypes.string_at(0)",
    "kills itself": "os.kill(os.getpid(), 9); os.abort()",
    "hangs": "time.sleep(60)",
    "ignores SIGTERM": "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)",
    "takes all memory": "b'x' * (1 << 40)",
    "takes all memory as a tree": "[os.fork() or (bytearray(100 << 20), time.sleep(60)) for _ in range(8)]; time.sleep(60)",
    "bombs": "[os.fork() or time.sleep(60) for _ in range(100)]",
    "starts threads": "[threading.Thread(target=time.sleep, args=(60,), daemon=True).start() for _ in range(8)]",
    "leaves daemons": "os.fork() or (os.setsid(), os.fork(), time.sleep(60))",
    "leaks descriptors": "[os.open('/dev/null', 0) for _ in range(1000)]",
    "floods": "[os.write(1, bytes(65536)) for _ in range(2000)]",
    "forges": "os.write(3, b'\\xff' * 64); time.sleep(60)",
    "leaves files": "[open(f'f{n}', 'w').write('x') for n in range(50)]",
}
HEAD = "import ctypes, os, signal, threading, time\nfrom millrace import workflow\n@workflow\ndef main():\n    "


class Left(msgspec.Struct, frozen=True):
    """What there is of a sandbox at one moment. Zombies are counted by themselves."""

    processes: int
    zombies: int
    descriptors: int
    slots: int
    births: int
    group_members: int
    groups_lost: int
    files: int

    @property
    def things(self) -> dict[str, int]:
        """Answer it by name."""
        return msgspec.structs.asdict(self)


def counted(children: Children) -> Left:
    """Count what a started sandbox has."""
    below_us = below(os.getpid())
    groups = children._cgroups  # noqa: SLF001
    trees = [] if groups is None else groups._trees  # noqa: SLF001
    zygote, ground = children._zygote, children._ground  # noqa: SLF001
    waiting = len(children._pool.waiting)  # noqa: SLF001
    return Left(
        processes=len(below_us) - waiting,
        zombies=sum(_is_zombie(pid) for pid in below_us),
        descriptors=_descriptors() - _of_waiting(children) - _of_groups(groups),
        slots=len(children._serving) + len(children._ending),  # noqa: SLF001
        births=0 if zygote is None else len(zygote._births) - waiting,  # noqa: SLF001
        group_members=sum(len(file.read_text().split()) for tree in trees for file in tree.folder.glob("*/cgroup.procs"))
        - waiting * len(trees),
        groups_lost=0 if groups is None else len(groups._all) - len(groups._free) - waiting,  # noqa: SLF001
        files=0 if ground is None else len(list(ground.scratch.iterdir())) - (waiting if children.tier != "A" else 0),
    )


def _of_groups(groups: Cgroups | None) -> int:
    return 0 if groups is None else sum(len(one.doors) + len(one._counters) for one in groups._all)  # noqa: SLF001


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - as a program sees it


def _of_waiting(children: Children) -> int:
    """Answer how many descriptors the waiting children have a right to: socket, two pipes, pidfd, and the way out in tier A."""
    return sum(4 + (slot.result().egress_listener is not None) for slot in children._pool.waiting)  # noqa: SLF001


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def settled(children: Children) -> None:
    """Wait until no run is left, and all children that should wait do."""
    pool = children._pool  # noqa: SLF001
    while children._serving or children._ending or pool._retiring or children._zygote is None:  # noqa: SLF001
        await asyncio.sleep(0.01)
    templates = children._templates  # noqa: SLF001
    while templates is not None and (templates.all or templates._tasks or templates._making):  # noqa: SLF001
        templates.end_idle(0)
        await asyncio.sleep(0.01)
    pool._takes.clear()  # noqa: SLF001 - as if nobody had asked for long
    while True:
        pool.tend()
        if len(pool.waiting) == pool.target and all(slot.done() for slot in pool.waiting) and not pool._retiring:  # noqa: SLF001
            return
        await asyncio.sleep(0.01)


async def suffered(children: Children, folder: Path, runs: int) -> Counter[str]:
    """Run so many; answer how often each end came about."""
    ends: Counter[str] = Counter()
    odd = [_bundle(folder, f"odd-{number}", text) for number, text in enumerate(WAYS.values())]
    well = _bundle(folder, "well", "return 1")
    left = iter(range(runs))

    async def work() -> None:
        for number in left:
            turn, is_well = divmod(number, ODD_ONE_IN)
            bundle = well if is_well else odd[turn % len(odd)]
            ended = await children.run(_job(bundle, 30 if is_well else 0.5), Recorded())
            ends[f"{'well' if is_well else list(WAYS)[turn % len(odd)]}: {ended.status}/{ended.reason}"] += 1

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return ends


def _bundle(folder: Path, name: str, text: str) -> Path:
    bundle = folder / name
    bundle.mkdir(mode=0o755)
    (bundle / "flow.py").write_text(HEAD + text + "\n")
    (bundle / "flow.py").chmod(0o644)
    return bundle


def _job(bundle: Path, timeout: float) -> Job:
    return Job(
        run="r",
        attempt=1,
        org="default",
        workflow="main",
        bundle=bundle,
        module="flow.py",
        function="main",
        input={},
        timeout=timeout,
    )


def sandbox(folder: Path) -> Children:
    """Answer a sandbox for this, not started."""
    uid = SANDBOX_UID if os.geteuid() == 0 else None
    return Children(folder / "sandbox", uid=uid, size=4, code=folder, limits=ChildLimits(memory_mb=256, processes=40))


async def measure(folder: Path, _seconds: float, *, runs: int) -> Outcome:
    """Run them and count."""
    await _open_one_stream()
    descriptors, processes = _descriptors(), below(os.getpid())
    children = sandbox(folder)
    await children.start()
    try:
        await settled(children)
        before = counted(children)
        memory = _resident_mb()
        began = time.monotonic()
        ends = await suffered(children, folder, runs)
        took = time.monotonic() - began
        await settled(children)
        after = counted(children)
        memory = _resident_mb() - memory
        tier, held = children.tier, children.held
    finally:
        await children.close()
    lost = {name: after.things[name] - number for name, number in before.things.items()}
    closed = {"processes": len(below(os.getpid()) - processes), "descriptors": _descriptors() - descriptors}
    things = sum(map(abs, [*lost.values(), *closed.values()]))
    return Outcome(
        name="leaks",
        figure=things,
        unit=f"things left by {runs} runs",
        limit=0,
        ratio=float(things),
        more={
            "tier": tier,
            "held": list(held),
            "runs": runs,
            "per_s": runs / took,
            "grown_mb": memory,
            "before": before.things,
            "left_while_warm": lost,
            "left_when_closed": closed,
            "ends": dict(sorted(ends.items())),
        },
    )


async def _open_one_stream() -> None:
    """Have the event loop open what it keeps for itself with its first stream: uvloop holds one descriptor in reserve."""
    ours, theirs = socket.socketpair()
    with theirs:
        _, writer = await asyncio.open_connection(sock=ours)
        writer.close()
        await writer.wait_closed()


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one line of JSON last.")
@click.option("--runs", default=10_000, show_default=True, help="How many runs.")
def main(*, as_json: bool, runs: int) -> None:
    """Count what many runs leave behind."""

    async def measured(folder: Path, seconds: float) -> Outcome:
        return await measure(folder, seconds, runs=runs)

    raise SystemExit(outcome.main(measured, seconds=0, as_json=as_json))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
