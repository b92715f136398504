"""A rate over two gateways: what is let in against what the rate says, and what holding to it costs a request.

Two gateway processes on one broker, webhooks of 512 bytes, signed and checked. Measured in turns, a ratio is the median of rounds:

- `over`: the most that both let in of one source in any ten seconds while both are flooded, as a part of the rate's ten seconds and
  one burst; `alone_over`: what two gateways that do not speak to each other would let in, each the whole;
- `left_per_s`: what the one lets in a second, from the first second after the other was killed, as a part of the rate;
- `cost_ratio`: durable 202s a second of a source whose rate is never met, beside one without a rate, with both gateways up;
- `take_us`, `kv_us`, `postgres_us`: a token of a bucket in memory that is told to others, beside a compare-and-set of one key of
  NATS KV and an UPDATE of one row of Postgres, one after the other; `kv_contended_us`, `postgres_contended_us`: by 16 at a time.

The figure is `over`, the limit is 1.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import asyncpg
import nats
import nats.js.errors
from nats.js.api import KeyValueConfig

from bench.ingest import signed_post
from bench.support import outcome
from bench.support.connection import Connection, Post
from bench.support.load import Generator, Load, generator, load
from bench.support.outcome import BenchError, Outcome
from bench.support.running import UNBOUNDED, Backing, backing, whole
from deploy.local import listen
from services.gateway.rates import Rate, SharedBuckets
from shared.bus import connected
from shared.health import Health

PER_SECOND, BURST = 300, 300
WINDOW = 10.0
CONNECTIONS = 32
SLOT = 2
ROUNDS = 4
# Who floods one gateway: each as fast as it is answered.
FLOODING = 8
STEPS, AT_ONCE = 500, 16
REGISTERED_WITHIN = 20.0


async def measure(folder: Path, seconds: float) -> Outcome:
    """Measure; `seconds` of the flood."""
    data, secret = folder / "data", secrets.token_urlsafe(24)
    rates: dict[str, Any] = {
        "free": {},
        "held": {"rate": {"per_second": 1_000_000}},
        "tight": {"rate": {"per_second": PER_SECOND, "burst": BURST}},
    }
    async with whole(data) as stack:
        urls = {}
        for name, rate in rates.items():
            body = {"adapter": "hmac", "settings": {"secret": secret, **rate}}
            made = await stack.api.call("PUT", f"/api/v1/sources/{name}", body=body)
            urls[name] = made["url"].removeprefix(stack.ready["url"])
        key = stack.ready["admin_key"]
    async with backing(data) as parts, AsyncExitStack() as running:
        gateways = [await _gateway(running, parts, key, str(number)) for number in (1, 2)]
        for url, _ in gateways:
            await _known(url + urls["tight"])
        posts = [{name: signed_post(url + path, secret) for name, path in urls.items()} for url, _ in gateways]
        free, held = await _in_turns(generator(), posts[0])
        both = await _flooded([one["tight"] for one in posts], seconds)
        left = await _without_one([one["tight"] for one in posts], gateways[1][1])
        costs = await _costs(parts)
    allowed = PER_SECOND * WINDOW + BURST
    worst = most_within(both, WINDOW)
    more = {
        "per_second": PER_SECOND,
        "burst": BURST,
        "flood_s": seconds,
        "admitted": len(both),
        "worst_ten_seconds": worst,
        "over": worst / allowed,
        "alone_over": 2.0,
        "left_per_s": left,
        "free_per_s": median(one.per_s for one in free),
        "held_per_s": median(one.per_s for one in held),
        "cost_ratio": median(one.per_s / other.per_s for one, other in zip(held, free, strict=True)),
        **costs,
    }
    return Outcome(
        name="limits", figure=worst / allowed, unit="of what the rate lets in", limit=1.0, ratio=worst / allowed, more=more
    )


async def _gateway(running: AsyncExitStack, parts: Backing, key: str, replica: str) -> tuple[str, int]:
    with listen("127.0.0.1", 0) as found:
        port = found.getsockname()[1]
    environment = {"MILLRACE_ADMIN_KEY": key, "MILLRACE_PORT": str(port), **UNBOUNDED}
    pid = await running.enter_async_context(parts.service("gateway", replica=replica, **environment))
    return f"http://127.0.0.1:{port}", pid


async def _known(url: str) -> None:
    """Wait until a gateway is there and knows a source."""
    async with asyncio.timeout(REGISTERED_WITHIN), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.post(url, data=b"") as response:
                    if response.status == 401:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


async def _in_turns(how: Generator, posts: dict[str, Post]) -> tuple[list[Load], list[Load]]:
    found: dict[str, list[Load]] = {"free": [], "held": []}
    await load(how, posts["free"], connections=CONNECTIONS, seconds=1)
    for number in range(ROUNDS):
        for name in sorted(found, reverse=number % 2 == 0):
            found[name].append(await load(how, posts[name], connections=CONNECTIONS, seconds=SLOT))
    return found["free"], found["held"]


async def _flooded(posts: list[Post], seconds: float) -> list[float]:
    """Return when each webhook was let in, while all gateways are flooded."""
    until = time.perf_counter() + seconds
    flooders = [Flooder(post, until) for post in posts for _ in range(FLOODING)]
    await asyncio.gather(*(one.run() for one in flooders))
    return sorted(at for one in flooders for at in one.admitted)


async def _without_one(posts: list[Post], pid: int) -> float:
    """Return the rate that one gateway lets in once the other was killed, as a part of the rate."""
    killed_at = time.perf_counter() + 2.0
    flooding = asyncio.create_task(_flooded(posts[:1], 8.0))
    other = asyncio.create_task(_flooded(posts[1:], 2.0))
    await other
    os.kill(pid, signal.SIGKILL)
    admitted = await flooding
    begin, end = killed_at + 1.0, killed_at + 5.0
    return sum(begin <= at < end for at in admitted) / (end - begin) / PER_SECOND


class Flooder:
    """One connection that sends as fast as it is answered."""

    def __init__(self, post: Post, until: float) -> None:
        self._post = post
        self._until = until
        self._encoded = post.encoded()
        self._over = asyncio.Event()
        self._connection: Connection | None = None
        self.admitted: list[float] = []

    async def run(self) -> None:
        """Flood until the time is over. Raises `BenchError` where the connection ends before."""
        self._connection = await Connection.open(self._post.url, self._answered, self._over.set)
        self._connection.send(self._encoded)
        await self._over.wait()
        self._connection.close()

    def _answered(self, status: int, body: bytes) -> None:
        now = time.perf_counter()
        if status == 202:
            self.admitted.append(now)
        elif status != 429:
            raise BenchError(f"{status}: {body[:200].decode(errors='replace')}")
        if now >= self._until:
            self._over.set()
        elif self._connection is not None:
            self._connection.send(self._encoded)


def most_within(times: list[float], window: float) -> int:
    """Return how many of sorted times are within any window of so many seconds, at most."""
    most = begin = 0
    for end, at in enumerate(times):
        while times[begin] <= at - window:
            begin += 1
        most = max(most, end - begin + 1)
    return most


async def _costs(parts: Backing) -> dict[str, float]:
    """Return the microseconds of a token, by where it is kept."""
    found: dict[str, float] = {}
    async with connected(parts.nats_url("gateway"), service="gateway", health=Health("gateway")) as bus:
        buckets, rate = SharedBuckets(bus.client), Rate(1_000_000.0)
        telling = asyncio.create_task(buckets.run())
        count, spent = 0, 0.0
        while spent < 1.0:
            began = time.perf_counter()
            for _ in range(1000):
                buckets.bucket("source:x", rate).take(time.monotonic())
            spent += time.perf_counter() - began
            count += 1000
            await asyncio.sleep(0)
        found["take_us"] = spent / count * 1e6
        telling.cancel()
    client = await nats.connect(parts.admin_url)
    pool = await asyncpg.create_pool(parts.database_url("gateway"), min_size=AT_ONCE, max_size=AT_ONCE)
    try:
        kv = await client.jetstream().create_key_value(KeyValueConfig(bucket="bench-rates"))
        await kv.put("x", b"0")

        async def by_kv() -> None:
            while True:
                entry = await kv.get("x")
                try:
                    await kv.update("x", b"%d" % (int(entry.value or b"0") + 1), last=entry.revision)
                except nats.js.errors.KeyWrongLastSequenceError:
                    continue
                return

        await pool.execute("CREATE TABLE gateway.bench_rates (id text PRIMARY KEY, tokens float8 NOT NULL)")
        await pool.execute("INSERT INTO gateway.bench_rates VALUES ('x', 1e9)")

        async def by_postgres() -> None:
            await pool.fetchval(
                "UPDATE gateway.bench_rates SET tokens = tokens - 1 WHERE id = 'x' AND tokens >= 1 RETURNING tokens"
            )

        for name, step in (("kv", by_kv), ("postgres", by_postgres)):
            for kind, at_once in ((name, 1), (f"{name}_contended", AT_ONCE)):
                began = time.perf_counter()
                await asyncio.gather(*(_repeated(step, STEPS // at_once) for _ in range(at_once)))
                found[f"{kind}_us"] = (time.perf_counter() - began) / (STEPS // at_once * at_once) * 1e6
    finally:
        await pool.execute("DROP TABLE IF EXISTS gateway.bench_rates")
        await pool.close()
        await client.close()
    return found


async def _repeated(step: Any, times: int) -> None:
    for _ in range(times):
        await step()


main = outcome.command(measure, seconds=25.0, about="Measure how well two gateways hold to one rate, and what it costs.")

if __name__ == "__main__":
    main()
