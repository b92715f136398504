"""From a webhook to its archived end: how long when nothing else happens, and how many a second with 64 on their way.

The workflow does nothing and logs nothing. Idle: one webhook after the other, the next one when `run.succeeded` of the last one
is a row of the archive; and the same with a pause in between, in which the pool of children fills up again (`rested`). In turns
with that, the floor: as many bare publishes, one after the other, to the same broker as the chain has messages that wait for
each other, which is read from the chain itself. The steps are medians between the times at which the broker stored the messages.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from pathlib import Path
from typing import Any

import asyncpg

from bench.support import outcome
from bench.support.chains import Chain, Chains
from bench.support.connection import Post
from bench.support.cpu import Meter
from bench.support.outcome import BenchError, Outcome, percentile
from bench.support.running import Whole, make_bench_stream, whole
from bench.support.webhooks import Webhooks, floor

BODY = b'{"text":"' + b"x" * (512 - 11) + b'"}'
WORKFLOW = b"from millrace import workflow\n\n\n@workflow(name='noop')\ndef noop(event: dict) -> None:\n    return None\n"
IN_FLIGHT = 64
# Webhooks of one kind before the other kind's turn, and the fewest of all turns together.
TURN = 10
FEWEST = 100
# Seconds between webhooks within which a child that was used up is replaced.
REST = 0.1
# Which part of the time goes into the idle measurement, and about how long one webhook with its rest and its floor takes.
IDLE_SHARE = 0.5
ABOUT = 0.25
# Seconds of load before it counts, and within which what is on its way at the end must have arrived.
WARM_UP = 1.0
DRAIN = 60.0


async def measure(folder: Path, seconds: float) -> Outcome:
    """Measure for about so many seconds."""
    total = Meter({})
    async with whole(folder / "data") as stack:
        post = await _prepared(stack)
        await make_bench_stream(stack.ready["nats_url"])
        archive = await asyncpg.connect(stack.ready["database_url"])
        try:
            async with Webhooks.running(post, stack.ready["nats_url"], archive) as webhooks:
                chains = Chains(archive)
                await webhooks.archived()
                path = (await chains.of([await webhooks.archived()]))[0].path
                idle = await _idle(webhooks, len(path), max(FEWEST, int(seconds * IDLE_SHARE / ABOUT)))
                told = await chains.of(idle["webhooks"] + idle["rested"])
                meter = Meter(stack.pids)
                per_s, completed = await _loaded(webhooks, seconds * (1 - IDLE_SHARE))
                consumed = meter.seconds()
                await _all_archived(archive, webhooks)
        finally:
            await archive.close()
    return _outcome(idle, told, per_s, {name: used / completed * 1000 for name, used in consumed.items()}, total.elsewhere())


async def _prepared(stack: Whole) -> Post:
    secret = secrets.token_urlsafe(24)
    view = await stack.api.call("PUT", "/api/v1/workspace/files/workflows/noop.py", data=WORKFLOW)
    if view["problems"]:
        raise BenchError(f"the workflow cannot be deployed: {view['problems'][0]['message']}")
    source = await stack.api.call("PUT", "/api/v1/sources/bench", body={"adapter": "hmac", "settings": {"secret": secret}})
    subscription = {"source": "bench", "event": "*", "workflow": "noop"}
    await stack.api.call("PUT", "/api/v1/subscriptions/bench", body=subscription)
    signature = hmac.new(secret.encode(), BODY, hashlib.sha256).hexdigest()
    return Post(url=source["url"], headers={"Content-Type": "application/json", "X-Signature": signature}, body=BODY)


async def _idle(webhooks: Webhooks, depth: int, count: int) -> dict[str, list[Any]]:
    """Return the webhooks of both kinds and the floor's times in seconds, measured in turns."""
    measured: dict[str, list[Any]] = {"webhooks": [], "rested": [], "floor": []}
    for _ in range(0, count, TURN):
        measured["webhooks"] += [await webhooks.archived() for _ in range(TURN)]
        measured["floor"] += await floor(webhooks.client, depth, TURN)
        for _ in range(TURN):
            await asyncio.sleep(REST)
            measured["rested"].append(await webhooks.archived())
    return measured


async def _loaded(webhooks: Webhooks, seconds: float) -> tuple[float, int]:
    """Keep 64 on their way; return how many a second came to their end, and how many in all."""
    stop = asyncio.Event()
    began = webhooks.ended

    async def keep_sending() -> None:
        while not stop.is_set():
            await webhooks.completed()

    senders = [asyncio.create_task(keep_sending()) for _ in range(IN_FLIGHT)]
    try:
        await asyncio.sleep(WARM_UP)
        before, at = webhooks.ended, time.perf_counter()
        await asyncio.sleep(max(1.0, seconds - WARM_UP))
        per_s = (webhooks.ended - before) / (time.perf_counter() - at)
        stop.set()
        async with asyncio.timeout(DRAIN):
            await asyncio.gather(*senders)
    finally:
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
    return per_s, webhooks.ended - began


async def _all_archived(archive: asyncpg.Connection[Any], webhooks: Webhooks) -> None:
    """Wait until each webhook's end is in the archive. Raises `BenchError` when one is missing, or there twice."""
    found = 0
    deadline = time.monotonic() + DRAIN
    while found < webhooks.ended and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        found = await archive.fetchval("SELECT count(*) FROM logs.message WHERE type = 'run.succeeded'")
    if found != webhooks.ended:
        raise BenchError(f"{webhooks.ended} runs succeeded and {found} such rows are in the archive")


def _outcome(idle: dict[str, list[Any]], told: list[Chain], per_s: float, consumed: dict[str, float], elsewhere: float) -> Outcome:
    count = len(idle["webhooks"])
    times = [one.milliseconds for one in idle["webhooks"]]
    rested = [one.milliseconds for one in idle["rested"]]
    bare = percentile(idle["floor"], 50) * 1000
    figure = percentile(times, 50)
    return Outcome(
        name="end_to_end",
        figure=figure,
        unit="ms from webhook to archived end",
        limit=bare,
        ratio=figure / bare,
        more={
            "tier": told[0].tier,
            "webhooks": count,
            "idle_p50_ms": figure,
            "idle_p99_ms": percentile(times, 99),
            "stored_p50_ms": percentile(
                [chain.stored_after(one.sent) for one, chain in zip(idle["webhooks"], told, strict=False)], 50
            ),
            "rested_p50_ms": percentile(rested, 50),
            "rested_p99_ms": percentile(rested, 99),
            "chain": len(told[0].path),
            "chain_messages": told[0].messages,
            "floor_ms": bare,
            "floor_p99_ms": percentile(idle["floor"], 99) * 1000,
            "floor_ratio": figure / bare,
            "rested_floor_ratio": percentile(rested, 50) / bare,
            "in_flight": IN_FLIGHT,
            "per_s": per_s,
            "cpu_ms_per_run": {**consumed, "all": sum(consumed.values())},
            "elsewhere_cores": elsewhere,
            "steps_ms": Chains.steps(list(zip(idle["webhooks"], told[:count], strict=True))),
            "rested_steps_ms": Chains.steps(list(zip(idle["rested"], told[count:], strict=True))),
        },
    )


main = outcome.command(
    measure, seconds=50.0, about="Measure how long a webhook takes to its archived end, and how many get there in a second."
)


if __name__ == "__main__":
    main()
