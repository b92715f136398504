"""Cached answers that are there, read one after the other, beside bare looks into the bucket; and a thousand readers of one more.

A process looks into the bucket once a second for each key, and answers from its memory else: both are measured. Then four groups of
readers with a cache each want one key, which takes two seconds to work out.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from bench.support import outcome
from bench.support.outcome import BenchError, Outcome
from shared import cache as caching
from shared.cache import Cache, Terms, Worked
from shared.expiring import Expiring
from shared.health import Health
from shared.streams import CACHE
from tests.support.inside import bus_of
from tests.support.servers import Place, running_servers

TERMS = Terms(fresh=3600, stale=3600, limit=60)
OPTIONS = msgspec.Raw(json.dumps([{"value": number, "label": f"Option {number}"} for number in range(50)]).encode())
REPLICAS, READERS, WORK = 4, 250, 2.0


async def measure(_folder: Path, seconds: float) -> Outcome:
    """Measure each for a third of the time."""
    async with running_servers() as servers, servers.place() as place, bus_of(place, "gateway") as bus:
        cache = Cache(bus.client, "gateway", "bench", Health("gateway"))
        await cache.get("default", "options", TERMS, _at_once, wait=30)
        (subject,) = await cache._subjects("default")  # noqa: SLF001 - the place that is looked at
        bucket, until = Expiring(bus.client, CACHE), time.monotonic() + seconds / 3
        bare = 0
        while time.monotonic() < until:
            await bucket.get(subject)
            bare += 1
        remembered, of_memory = await _hits(cache, seconds / 3), caching.LOOKS
        caching.LOOKS = 0.0
        looked = await _hits(cache, seconds / 3)
        caching.LOOKS = of_memory
        await cache.close()
        worked, took = await _stampede(place)
    limit, figure = bare / (seconds / 3), looked / (seconds / 3)
    return Outcome(
        name="cache",
        figure=figure,
        unit="hits/s",
        limit=limit,
        ratio=figure / limit,
        more={
            "hits a second, each with a look into the bucket": figure,
            "bare looks a second": limit,
            "ratio": figure / limit,
            "hits a second from memory": remembered / (seconds / 3),
            "bytes of the answer": len(OPTIONS),
            "readers of an answer that is not there": REPLICAS * READERS,
            "times it was worked out": worked,
            "seconds of the work": WORK,
            "seconds until all had it": took,
        },
    )


async def _hits(cache: Cache, seconds: float) -> int:
    hits, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        await cache.get("default", "options", TERMS, _at_once, wait=30)
        hits += 1
    return hits


async def _stampede(place: Place) -> tuple[int, float]:
    """Return how often an answer was worked out that many wanted at once, and in which time all had it."""
    attempts: list[str] = []

    async def work(attempt: str) -> Worked:
        attempts.append(attempt)
        await asyncio.sleep(WORK)
        return Worked(OPTIONS, time.time())

    async with AsyncExitStack() as stack:
        buses = [await stack.enter_async_context(bus_of(place, "gateway")) for _ in range(REPLICAS)]
        caches = [Cache(bus.client, "gateway", "bench", Health("gateway")) for bus in buses]
        begun = time.monotonic()
        await asyncio.gather(*(one.get("default", "wanted", TERMS, work, wait=60) for one in caches for _ in range(READERS)))
        took = time.monotonic() - begun
        for one in caches:
            await one.close()
    if len(attempts) != 1:
        raise BenchError(f"the answer was worked out {len(attempts)} times")
    return len(attempts), took


async def _at_once(_attempt: str) -> Worked:
    return Worked(OPTIONS, time.time())


if __name__ == "__main__":
    outcome.command(measure, seconds=9, about=__doc__ or "")()
