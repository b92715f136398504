"""Isolated runs: how soon the author's first line runs, and how many runs a second, beside what a bare fork takes.

The limit is a fork of the very zygote that makes the sandboxed children, in the same run and in turns with it: `os.fork`, in no
namespace of its own, and a process that reads the clock and exits. Measured, each the median over the rounds:

- `start_ms`: from a job handed over to the first line of the author's module, while children wait in the pool (`start_ratio`:
  of what a bare fork takes from the request to its first line; wanted: at most 0.25);
- `per_s`: runs that do nothing, end to end, sustained with more asked for than the pool holds (`throughput_ratio`: of bare forks
  that are waited for, as many at a time; wanted: at least 0.55);
- `cpu_ms`: CPU of supervisor, zygote and children together for one run.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from pathlib import Path
from statistics import median

from bench.support import outcome
from bench.support.outcome import BenchError, Outcome, percentile
from services.executor.sandbox.children import SANDBOX_UID, Children
from services.executor.sandbox.jail import Job
from services.executor.sandbox.zygote import Zygote
from services.executor.workspaces.bytecode import lay
from tests.support.sandbox import Recorded

AT_ONCE = 8
ROUNDS = 5
STARTS = 40
# Between two starts: long enough for the pool to be full again.
PAUSE = 0.02
START_WANTED, THROUGHPUT_WANTED = 0.25, 0.55
TICK = 1 / os.sysconf("SC_CLK_TCK")


async def measure(folder: Path, seconds: float) -> Outcome:
    """Measure for about so many seconds."""
    bundle = folder / "bundle"
    bundle.mkdir(mode=0o755)
    (bundle / "flow.py").write_text(
        "import time\nFIRST = time.monotonic_ns()\nfrom millrace import workflow\n@workflow\ndef main(): return FIRST\n"
    )
    (bundle / "flow.py").chmod(0o644)
    uid = SANDBOX_UID if os.geteuid() == 0 else None
    children = Children(folder / "sandbox", uid=uid, size=4, most=AT_ONCE, code=folder)
    await children.start()
    try:
        zygote = children._zygote  # noqa: SLF001
        if zygote is None:
            raise BenchError("there is no zygote")
        slot = seconds / ROUNDS / 2
        await lay(bundle, ["flow.py"], children.compile)
        await _sustained(lambda: _run(children, bundle), 0.5)
        starts: list[float] = []
        bare_starts: list[float] = []
        rates: list[float] = []
        bare_rates: list[float] = []
        cpu: list[float] = []
        for _ in range(ROUNDS):
            bare_starts += [await _start(lambda: _bare(zygote)) for _ in range(STARTS)]
            starts += [await _start(lambda: _run(children, bundle)) for _ in range(STARTS)]
            bare_rates.append((await _sustained(lambda: _bare(zygote), slot))[0])
            before = _cpu(zygote.pid)
            rate, runs = await _sustained(lambda: _run(children, bundle), slot)
            rates.append(rate)
            cpu.append((_cpu(zygote.pid) - before) / runs * 1000)
    finally:
        tier = children.tier
        await children.close()
    return _outcome(tier, starts, bare_starts, rates, bare_rates, cpu)


def _outcome(
    tier: str, starts: list[float], bare_starts: list[float], rates: list[float], bare_rates: list[float], cpu: list[float]
) -> Outcome:
    start_ratio = percentile(starts, 50) / percentile(bare_starts, 50)
    throughput = median(one / bare for one, bare in zip(rates, bare_rates, strict=True))
    return Outcome(
        name="sandbox",
        figure=median(rates),
        unit="isolated runs per second",
        limit=median(bare_rates),
        ratio=throughput,
        more={
            "tier": tier,
            "start_ms": percentile(starts, 50),
            "start_p95_ms": percentile(starts, 95),
            "bare_start_ms": percentile(bare_starts, 50),
            "bare_start_p95_ms": percentile(bare_starts, 95),
            "start_ratio": start_ratio,
            "start_as_wanted": start_ratio <= START_WANTED,
            "per_s": median(rates),
            "bare_per_s": median(bare_rates),
            "throughput_ratio": throughput,
            "throughput_as_wanted": throughput >= THROUGHPUT_WANTED,
            "cpu_ms": median(cpu),
            "rounds_per_s": {"isolated": [round(one) for one in rates], "bare": [round(one) for one in bare_rates]},
        },
    )


async def _start(one):  # noqa: ANN001, ANN202
    """Milliseconds from now to the first line of what is started, when nothing else goes on."""
    await asyncio.sleep(PAUSE)
    began = time.monotonic_ns()
    return (await one() - began) / 1e6


async def _run(children: Children, bundle: Path) -> int:
    job = Job(
        run="r", attempt=1, org="default", workflow="main", bundle=bundle, module="flow.py", function="main", input={}, timeout=30
    )
    ended = await children.run(job, Recorded())
    if ended.result is None:
        raise BenchError(f"a run {ended.status}: {ended.error}")
    first: int = json.loads(bytes(ended.result))
    return first


async def _bare(zygote: Zygote) -> int:
    """Have the zygote fork and nothing else; return when its first line ran. Answers when it has been waited for."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            birth = await zygote.fork({"open_files": 256, "memory_bytes": None, "bare": True}, theirs.fileno(), 1, 2)
        await asyncio.shield(birth.ended)
        return int(ours.recv(64))


async def _sustained(one, seconds: float) -> tuple[float, int]:  # noqa: ANN001
    """Keep `AT_ONCE` going; return how many a second, and how many in all."""
    done = 0
    began = time.monotonic()

    async def repeat() -> None:
        nonlocal done
        while time.monotonic() < began + seconds:
            await one()
            done += 1

    await asyncio.gather(*(repeat() for _ in range(AT_ONCE)))
    return done / (time.monotonic() - began), done


def _cpu(zygote: int) -> float:
    """Seconds of CPU of this process, the zygote, and all that the zygote has waited for."""
    fields = Path(f"/proc/{zygote}/stat").read_text().rsplit(")", 1)[1].split()
    return time.process_time() + sum(int(field) for field in fields[11:15]) * TICK


main = outcome.command(measure, seconds=30.0, about="Measure what isolating a run costs.")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
