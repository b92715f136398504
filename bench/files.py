"""Large files through the front door: how fast, beside the bare object store, and the memory that it takes.

- `put_mb_s`, `get_mb_s`: one file over HTTP to the workspace and back;
- `bare_put_mb_s`, `bare_get_mb_s` (the limit): as many bytes straight into the broker's object store and out of it, the faster of
  our own way and of nats-py's; nothing is registered or sent over HTTP;
- `memory_mb`: how much more than idle the gateway and the executor hold at the most while one file of 1 GB, 200 of 5 MB one after
  the other, 40 of 5 MB at once and a Python module of 20 MB pass, in an order that is drawn.
"""

from __future__ import annotations

import functools
import io
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import nats

from bench.support import outcome
from bench.support.outcome import Outcome
from bench.support.running import Whole, whole
from shared.blobs import Blobs
from shared.client import connect
from tests.support.large_files import LargeFiles, peak_mb, settled

MB = 1 << 20
TIMED = 256 * MB
ROUNDS = 3
SERVICES = ("gateway", "executor")


async def measure(folder: Path, seconds: float) -> Outcome:
    """Measure; `seconds` of the default or more take the whole sizes, fewer a tenth of them."""
    part = 1 if seconds >= SECONDS else 10
    rates: dict[str, list[float]] = {}
    async with whole(folder / "data", MILLRACE_MAX_FILE=str(4 << 30)) as stack:
        headers = {"Authorization": f"Bearer {stack.ready['admin_key']}"}
        async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=None)) as api:
            files = LargeFiles(api, stack.ready["url"])
            await files.put_module("flows/large.py", MB)
            memory = await _memory(stack, files, part)
            for number in range(ROUNDS):
                await _timed(rates, "put", functools.partial(files.put, "data/timed.bin", 100 + number, TIMED))
                await _timed(rates, "get", functools.partial(files.read, "data/timed.bin"))
                await _bare(stack, files, rates, number)
    found = {name: median(each) for name, each in rates.items()}
    limits = {way: max(found[f"blobs_{way}"], found[f"nats_py_{way}"]) for way in ("put", "get")}
    ratios = {way: found[way] / limits[way] for way in ("put", "get")}
    worst = min(ratios, key=lambda way: ratios[way])
    return Outcome(
        name="files",
        figure=found[worst],
        unit=f"MB/s of {worst}",
        limit=limits[worst],
        ratio=ratios[worst],
        more={
            **{f"{way}_mb_s": found[way] for way in ratios},
            **{f"bare_{way}_mb_s": limits[way] for way in ratios},
            **{f"{way}_ratio": ratio for way, ratio in ratios.items()},
            **{f"{name}_mb_s": rate for name, rate in found.items() if "_" in name},
            "memory_mb": memory,
        },
    )


async def _memory(stack: Whole, files: LargeFiles, part: int) -> dict[str, dict[str, float]]:
    """Return how much more than idle each service held, after each step."""
    steps: dict[str, Callable[[], Awaitable[Any]]] = {
        "one of 1 GB": lambda: files.through("data/one.bin", 1, 1024 * MB // part),
        "200 in sequence": lambda: files.in_sequence(200 // part, 5 * MB),
        "40 at once": lambda: files.at_once(40, 5 * MB),
        "a module of 20 MB": lambda: files.put_module("flows/large.py", 20 * MB),
    }
    pids = {name: stack.pids[name] for name in SERVICES}
    idle = await settled(pids)
    found: dict[str, dict[str, float]] = {"idle": idle}
    for name in random.sample(sorted(steps), len(steps)):
        await steps[name]()
        found[name] = {service: peak_mb(pid) - idle[service] for service, pid in pids.items()}
    return found


async def _bare(stack: Whole, files: LargeFiles, rates: dict[str, list[float]], number: int) -> None:
    client = await connect(stack.ready["nats_url"])
    stock = await nats.connect(stack.ready["nats_url"])
    try:
        blobs = Blobs(client, "workspace")
        stored: list[str] = []

        async def put() -> None:
            stored.append((await blobs.put(files.parts(200 + number, TIMED))).sha256)

        async def get() -> None:
            async for _ in blobs.get(stored[0]):
                pass

        await _timed(rates, "blobs_put", put)
        await _timed(rates, "blobs_get", get)
        await blobs.remove(stored[0])
        bucket = await stock.jetstream().object_store("workspace")
        name = f"bench-{number}"
        content = b"".join([piece async for piece in files.parts(300 + number, TIMED)])
        await _timed(rates, "nats_py_put", lambda: bucket.put(name, content))
        await _timed(rates, "nats_py_get", lambda: bucket.get(name, writeinto=io.BytesIO()))  # quadratic without
        await bucket.delete(name)
    finally:
        await client.close()
        await stock.close()


async def _timed(rates: dict[str, list[float]], name: str, work: Callable[[], Awaitable[Any]]) -> None:
    began = time.monotonic()
    await work()
    rates.setdefault(name, []).append(TIMED / MB / (time.monotonic() - began))


SECONDS = 60.0
main = outcome.command(measure, seconds=SECONDS, about="Measure how fast large files go in and out, and the memory that they take.")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
