"""What packages cost: a run that imports pandas and requests against one of the standard library, and building against `uv` alone.

    python bench/packages.py [--json] [--runs N]

CPU is that of the supervisor and of all processes below it; both kinds of runs in turns, over the same sandbox. Building is
resolving, fetching, unpacking, checking and compiling, from the machine's own index; `uv pip install --compile-bytecode` does the
same work, without walls, and `uv pip install` leaves the compiling to the first import.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import structlog
import uv

from services.executor.environments.indexes import Indexes, indexes
from services.executor.sandbox.egress.network import Network
from shared.egress.policy import EgressRules
from tests.support.egress import Names
from tests.support.packages import Yard, yard
from tests.support.sandbox import TIERS, Bench, Recorded, below, started_bench

WANTED = ("pandas", "requests")
BLOCK = 10
LIMIT_RUN, LIMIT_BUILD = 3.0, 1.5
PLAIN = "import json, urllib.request\n@workflow\ndef main() -> int:\n    return 1\n"
HEAVY = "import pandas, requests\n@workflow\ndef main() -> int:\n    return 1\n"
TICK = os.sysconf("SC_CLK_TCK")


def allowed() -> Recorded:
    """Return the capabilities of a run that may reach the network, as all have it."""
    return Recorded(Network(EgressRules().of("default"), Names(), lambda _: None))


def cpu() -> float:
    """Return the CPU seconds of this process and all below it, those that have ended included."""
    total = time.process_time()
    for pid in below(os.getpid()):
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15])) / TICK
    return total


async def block(bench: Bench, job: Any) -> tuple[float, float]:
    """Return CPU and latency in ms of a run, as the mean and the median of some."""
    began, taken = cpu(), []
    for _ in range(BLOCK):
        at = time.perf_counter()
        outcome = await bench.children.run(job, allowed())
        taken.append((time.perf_counter() - at) * 1000)
        assert outcome.status == "succeeded", outcome
        await asyncio.sleep(0.02)  # a run's end is cleared away after it is reported
    return (cpu() - began) * 1000 / BLOCK, statistics.median(taken)


async def runs(packages: Path, count: int) -> dict[str, float]:
    """Measure warm runs of both kinds in turns."""
    async with started_bench(TIERS[0], code=Path(tempfile.gettempdir()), template_after=2) as bench:
        jobs = {"plain": bench.job(PLAIN), "heavy": msgspec.structs.replace(bench.job(HEAVY, timeout=60), site_packages=packages)}
        for job in jobs.values():
            for _ in range(3):
                await bench.children.run(job, allowed())
            await asyncio.sleep(3)  # in which packages are imported ahead
            for _ in range(10):
                await bench.children.run(job, allowed())
                await asyncio.sleep(0.02)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
        for _ in range(max(2, count // BLOCK)):
            for name, job in jobs.items():
                found[name].append(await block(bench, job))
        told: dict[str, float] = {}
        for name, blocks in found.items():
            told[f"{name}_cpu_ms"] = statistics.median(one for one, _ in blocks)
            told[f"{name}_latency_ms"] = statistics.median(one for _, one in blocks)
        cold = msgspec.structs.replace(jobs["heavy"], preload=False)
        told["cold_import_ms"] = (await block(bench, cold))[1]
        return told


async def ours(place: Yard, *, cold: bool) -> float:
    """Return the seconds of resolving and building."""
    if cold:
        for folder in (place.disk.wheels, place.disk.resolving):
            shutil.rmtree(folder)
            folder.mkdir(mode=0o755)
    shutil.rmtree(place.disk.built)
    place.disk.built.mkdir(mode=0o755)
    began = time.perf_counter()
    await place.built(*WANTED)
    return time.perf_counter() - began


def theirs(found: Indexes, folder: Path, *, cold: bool, compiled: bool) -> float:
    """Return the seconds of `uv pip install` into a folder of its own."""
    cache = folder / "cache"
    if cold:
        shutil.rmtree(cache, ignore_errors=True)
    target = folder / "target"
    shutil.rmtree(target, ignore_errors=True)
    command = [
        *(uv.find_uv_bin(), "pip", "install", "--quiet", "--no-config", "--target", str(target), "--python", sys.executable),
        *("--cache-dir", str(cache), "--only-binary", ":all:", *(("--compile-bytecode",) if compiled else ()), *WANTED),
    ]
    began = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, **found.environment})
    return time.perf_counter() - began


async def measured(count: int) -> dict[str, Any]:
    """Measure all of it."""
    found = indexes(None, None)
    told: dict[str, float] = {}
    async with yard(TIERS[0], found) as place:
        with tempfile.TemporaryDirectory(dir=place.folder) as folder:
            await place.built("requests")  # what starts once has started
            for name, cold in (("cold", True), ("warm", False)):
                both = [
                    (
                        await ours(place, cold=cold),
                        theirs(found, Path(folder), cold=cold, compiled=True),
                        theirs(found, Path(folder), cold=cold, compiled=False),
                    )
                    for _ in range(1 if cold else 5)
                ]
                for what, seconds in zip(("build", "uv_compiled", "uv"), zip(*both, strict=True), strict=True):
                    told[f"{name}_{what}_s"] = statistics.median(seconds)
        packages = await place.built(*WANTED)
        told |= await runs(packages, count)
    return told


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=100)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    told = asyncio.run(measured(options.runs))
    ratios = {
        "cpu": told["heavy_cpu_ms"] / told["plain_cpu_ms"],
        "latency": told["heavy_latency_ms"] / told["plain_latency_ms"],
        "build, cold, against uv with bytecode": told["cold_build_s"] / told["cold_uv_compiled_s"],
        "build, cold, against uv without": told["cold_build_s"] / told["cold_uv_s"],
        "build, warm, against uv with bytecode": told["warm_build_s"] / told["warm_uv_compiled_s"],
        "build, warm, against uv without": told["warm_build_s"] / told["warm_uv_s"],
    }
    print(f"a warm run that imports {' and '.join(WANTED)}, against one of the standard library (limit {LIMIT_RUN:g}):")
    print(f"  CPU {told['heavy_cpu_ms']:.2f} ms against {told['plain_cpu_ms']:.2f} ms: {ratios['cpu']:.2f}")
    print(f"  latency {told['heavy_latency_ms']:.2f} ms against {told['plain_latency_ms']:.2f} ms: {ratios['latency']:.2f}")
    print(f"  latency where the run imports them itself: {told['cold_import_ms']:.0f} ms")
    print(f"building their environment, in seconds (limit {LIMIT_BUILD:g}):")
    for name in ("cold", "warm"):
        build, compiled, plain = (told[f"{name}_{what}_s"] for what in ("build", "uv_compiled", "uv"))
        print(f"  {name}: {build:.2f}; uv with bytecode {compiled:.2f}: {build / compiled:.2f}")
        print(f"  {name}: {build:.2f}; uv without {plain:.2f}: {build / plain:.2f}")
    if options.json:
        figure = {"name": "packages", "figure": told["heavy_cpu_ms"], "unit": "ms CPU a run", "limit": told["plain_cpu_ms"]}
        print(json.dumps({**figure, "ratio": ratios["cpu"], **told, "ratios": ratios}))


if __name__ == "__main__":
    main()
