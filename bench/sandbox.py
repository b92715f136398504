"""Isolated runs: how soon the author's first line runs, and how many runs a second, beside what a bare fork takes.

The limit is a fork of the very zygote that makes the sandboxed children, in the same run and in turns with it: `os.fork`, in no
namespace of its own, and a process that reads the clock and exits. The runs are of one bundle, so that its template forks them.
Measured, each the median over the rounds unless it says otherwise:

- `start_ms`, and with it p50 and p99: from a job handed over to the first line of the author's module, while children wait
  (`start_ratio`: of what a bare fork takes from the request to its first line; wanted: at most 0.2; p50 at most 0.6, p99 at most
  1.5 ms). `published_ms` has the published figures of others for a copy of a prepared machine or process: zeroboot, which copies a
  virtual machine, without a network; Sandlock, which forks a process;
- `per_s`: runs that do nothing, end to end, sustained with more asked for than wait (`throughput_ratio`: of bare forks that are
  waited for, as many at a time; wanted: at least 0.6);
- `cpu_ms`: CPU of supervisor, zygote and template, and children for one run; wanted: at most 4 together;
- `template_mib`, `waiting_mib`: the share of memory (PSS) of a template, and of a child of it that waits for a job.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench.support import outcome
from bench.support.outcome import BenchError, Outcome, percentile
from services.executor.sandbox.children import SANDBOX_UID, Children
from services.executor.sandbox.fork_server import ForkServer
from services.executor.sandbox.interface import Job
from services.executor.sandbox.template import Template
from services.executor.sandbox.zygote import Zygote
from services.executor.workspaces.bytecode import lay
from tests.support.egress import way_out
from tests.support.sandbox import Recorded

AT_ONCE = 8
ROUNDS = 5
STARTS = 40
# Between two starts: long enough for the pool to be full again.
PAUSE = 0.02
START_WANTED, THROUGHPUT_WANTED, CPU_WANTED = 0.2, 0.6, 4.0
P50_WANTED, P99_WANTED = 0.6, 1.5
PUBLISHED = {"zeroboot": {"p50": 0.79, "p99": 1.74}, "Sandlock": {"mean": 0.53, "per_s": 1900}}
# As every run has it, though these connect to nothing.
NETWORK = way_out(lambda _: None)
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
        forking = [zygote, *_templates(children)]
        starts: list[float] = []
        bare_starts: list[float] = []
        rates: list[float] = []
        bare_rates: list[float] = []
        cpu: list[list[float]] = []
        for _ in range(ROUNDS):
            bare_starts += [await _start(lambda: _bare(zygote)) for _ in range(STARTS)]
            starts += [await _start(lambda: _run(children, bundle)) for _ in range(STARTS)]
            bare_rates.append((await _sustained(lambda: _bare(zygote), slot))[0])
            before = _cpu(forking)
            rate, runs = await _sustained(lambda: _run(children, bundle), slot)
            rates.append(rate)
            after = _cpu(forking)
            cpu.append([(now - then) / runs * 1000 for now, then in zip(after, before, strict=True)])
        await asyncio.sleep(1)
        memory = _memory(children)
    finally:
        tier = children.tier
        await children.close()
    return _outcome(tier, starts, bare_starts, rates, bare_rates, cpu, memory)


def _outcome(
    tier: str,
    starts: list[float],
    bare_starts: list[float],
    rates: list[float],
    bare_rates: list[float],
    cpu: list[list[float]],
    memory: dict[str, float],
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
            "start_p99_ms": percentile(starts, 99),
            "p50_and_p99_as_wanted": percentile(starts, 50) <= P50_WANTED and percentile(starts, 99) <= P99_WANTED,
            "published_ms": PUBLISHED,
            "bare_start_ms": percentile(bare_starts, 50),
            "bare_start_p95_ms": percentile(bare_starts, 95),
            "start_ratio": start_ratio,
            "start_as_wanted": start_ratio <= START_WANTED,
            "per_s": median(rates),
            "bare_per_s": median(bare_rates),
            "throughput_ratio": throughput,
            "throughput_as_wanted": throughput >= THROUGHPUT_WANTED,
            "cpu_ms": median(map(sum, cpu)),
            "cpu_as_wanted": median(map(sum, cpu)) <= CPU_WANTED,
            "cpu_ms_of": {
                name: median(one)
                for name, one in zip(("supervisor", "zygote and template", "child"), zip(*cpu, strict=True), strict=True)
            },
            **memory,
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
    ended = await children.run(job, Recorded(NETWORK))
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


def _templates(children: Children) -> list[Template]:
    found = children._templates  # noqa: SLF001
    return [] if found is None else [template for template, _ in found.all]


def _cpu(forking: Sequence[ForkServer]) -> tuple[float, float, float]:
    """Seconds of CPU of this process, of those that fork, and of all that these have waited for."""
    own = waited_for = 0.0
    for one in forking:
        fields = [int(field) for field in Path(f"/proc/{one.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:15]]
        own += (fields[0] + fields[1]) * TICK
        waited_for += (fields[2] + fields[3]) * TICK
    return time.process_time(), own, waited_for


def _memory(children: Children) -> dict[str, float]:
    """MiB of a template and of a child of it that waits, by their shares in what they have."""
    found = children._templates  # noqa: SLF001
    if found is None or not found.all:
        return {}
    template, pool = found.all[0]
    waiting = next(slot.result() for slot in pool.waiting if slot.done())
    return {"template_mib": _pss(template.pid), "waiting_mib": _pss(waiting.pid)}


def _pss(pid: int) -> float:
    rolled = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(rolled.split("Pss:", 1)[1].split(None, 1)[0]) / 1024


main = outcome.command(measure, seconds=30.0, about="Measure what isolating a run costs.")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
