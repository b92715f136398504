"""What a run that misbehaves costs the others: the time of short runs beside it, and alone, in turns on the same sandbox.

Short runs are asked for at a steady rate, whether the last has ended or not; each is timed from the job handed over to its end.
Beside them one run at a time misbehaves for the whole turn: as soon as it has ended the next begins. Turns with and without
alternate, since the machine has slower moments; a turn begins when the last misbehaving run is gone. For each kind, over all
its turns:

- `p50_ms`, `p95_ms` beside it, and `alone_p50_ms`, `alone_p95_ms` in the turns just before its own;
- `ratio`: p95 beside it to p95 alone (wanted: below 1.5).

The figure is the worst of these ratios.
"""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import click

from bench.support import outcome
from bench.support.outcome import BenchError, Outcome, percentile
from services.executor.sandbox.children import SANDBOX_UID, Children
from services.executor.sandbox.interface import Job
from services.executor.sandbox.process import ChildLimits
from tests.support.sandbox import Recorded

PER_SECOND = 20
"""Short runs a second: a fifth of what two cores do, so that there is room for one who misbehaves and none for a queue."""
ROUNDS = 4
WANTED = 1.5
KINDS = {
    "out of memory": """
        kept = []
        while True: kept.append(bytearray(16 << 20))
    """,
    "out of memory as a tree": """
        while True:
            if os.fork() == 0:
                kept = bytearray(64 << 20)
                time.sleep(60)
            time.sleep(0.005)
    """,
    "flood of output": "while True: os.write(1, b'x' * 65535 + b'\\n')",
    "flood of log lines": "while True: log.info('x' * 100, a=1)",
    "ignores SIGTERM, busy": """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True: pass
    """,
    "ignores SIGTERM, asleep": """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True: time.sleep(1)
    """,
    "fork bomb": """
        while True:
            try:
                if os.fork() == 0:
                    while True: pass
            except OSError: time.sleep(0.01)
    """,
    "descriptors on their way": """
        import socket
        pairs = []
        while True:
            try:
                pairs.append(socket.socketpair())
                socket.send_fds(pairs[-1][0], [b"x"], [0] * 250)
            except OSError: time.sleep(0.01)
    """,
    "busy threads": """
        for _ in range(2): threading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True).start()
        while True: pass
    """,
}
"""What misbehaves, as the body of a workflow."""
HEAD = "import os, signal, threading, time\nfrom millrace import workflow, log\n@workflow\ndef main():\n"


class Streams:
    """Short runs and misbehaving ones on one sandbox."""

    def __init__(self, children: Children, folder: Path) -> None:
        self._children = children
        self._folder = folder
        self._short = self._bundle("short", "return 1")
        self._bad = {kind: self._bundle(f"bad-{number}", text) for number, (kind, text) in enumerate(KINDS.items())}
        self.ends: dict[str, set[str]] = {kind: set() for kind in KINDS}

    def _bundle(self, name: str, text: str) -> Path:
        bundle = self._folder / name
        bundle.mkdir(mode=0o755)
        (bundle / "flow.py").write_text(HEAD + textwrap.indent(textwrap.dedent(text), "    ") + "\n")
        (bundle / "flow.py").chmod(0o644)
        return bundle

    async def short(self, seconds: float) -> list[float]:
        """Answer the milliseconds of each short run that began within so many seconds."""
        taken: list[float] = []

        async def one() -> None:
            began = time.perf_counter()
            ended = await self._children.run(_job(self._short, 30), Recorded())
            taken.append((time.perf_counter() - began) * 1000)
            if ended.status != "succeeded":
                raise BenchError(f"a short run {ended.status}: {ended.error}")

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(int(seconds * PER_SECOND)):
                await asyncio.sleep(max(0.0, began + number / PER_SECOND - time.perf_counter()))
                group.create_task(one())
        return taken

    @asynccontextmanager
    async def beside(self, kind: str) -> AsyncIterator[None]:
        """Keep one run of a kind going for the block; when it ends nothing is left of it."""
        going = asyncio.create_task(self._misbehave(kind))
        await asyncio.sleep(0.2)
        try:
            yield
        finally:
            going.cancel()
            await asyncio.gather(going, return_exceptions=True)
        await asyncio.sleep(0.2)

    async def _misbehave(self, kind: str) -> None:
        while True:
            ended = await self._children.run(_job(self._bad[kind], 60), Recorded())
            self.ends[kind].add(f"{ended.status}/{ended.reason}")


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


async def measure(folder: Path, seconds: float, *, cgroups: bool, only: str) -> Outcome:
    """Measure for about so many seconds."""
    kinds = [kind for kind in KINDS if only in kind]
    children = Children(
        folder / "sandbox",
        uid=SANDBOX_UID if os.geteuid() == 0 else None,
        size=4,
        code=folder,
        limits=ChildLimits(memory_mb=256),
        cgroups=cgroups,
    )
    await children.start()
    alone: dict[str, list[float]] = {kind: [] for kind in kinds}
    with_it: dict[str, list[float]] = {kind: [] for kind in kinds}
    try:
        streams = Streams(children, folder)
        turn = max(1.0, seconds / (2 * ROUNDS * len(kinds)))
        await streams.short(1.0)
        for _ in range(ROUNDS):
            for kind in kinds:
                alone[kind] += await streams.short(turn)
                async with streams.beside(kind):
                    with_it[kind] += await streams.short(turn)
        tier, held = children.tier, children.held
    finally:
        await children.close()
    figures = {kind: _compared(alone[kind], with_it[kind], streams.ends[kind]) for kind in kinds}
    ratios = [percentile(with_it[kind], 95) / percentile(alone[kind], 95) for kind in kinds]
    return Outcome(
        name="neighbours",
        figure=max(ratios),
        unit="times the p95 of short runs alone, beside the worst",
        limit=percentile([one for some in alone.values() for one in some], 95),
        ratio=max(ratios),
        more={"tier": tier, "held": list(held), "as_wanted": max(ratios) < WANTED, **figures},
    )


def _compared(alone: list[float], with_it: list[float], ends: set[str]) -> dict[str, object]:
    return {
        "p50_ms": percentile(with_it, 50),
        "alone_p50_ms": percentile(alone, 50),
        "p95_ms": percentile(with_it, 95),
        "alone_p95_ms": percentile(alone, 95),
        "ratio": percentile(with_it, 95) / percentile(alone, 95),
        "ends": sorted(ends),
    }


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one line of JSON last.")
@click.option("--seconds", default=120.0, show_default=True, help="How long to measure.")
@click.option("--no-cgroups", is_flag=True, help="As on a machine where control groups cannot be made.")
@click.option("--only", default="", help="Only the kinds whose name has this in it.")
def main(*, as_json: bool, seconds: float, no_cgroups: bool, only: str) -> None:
    """Measure what a run that misbehaves costs its neighbours."""

    async def measured(folder: Path, seconds: float) -> Outcome:
        return await measure(folder, seconds, cgroups=not no_cgroups, only=only)

    raise SystemExit(outcome.main(measured, seconds=seconds, as_json=as_json))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
