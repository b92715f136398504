"""Durable 202s per second: what the gateway admits with 64 connections, beside what its parts could do at most.

The load: bodies of 512 bytes, signed with HMAC-SHA256 and checked, no delivery id of the sender's, so that every request is
a new delivery. All share this machine's cores: load, gateway, broker. Measured in turns; each figure is the
median of the rounds, each ratio the median of the rounds' ratios:

- the gateway and the broker alone (`per_s`), also while one more connection repeats one delivery without pause;
- a server on the same aiohttp and uvloop that reads the body and answers (`noop_per_s`): what HTTP costs;
- the same server with one publish per request on the same broker (`per_message_per_s`): what it costs not to share commits.

Before that the same load on the whole stack, where all other services take their share: events parses, finds no
subscription and says so, logs archives both messages.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Any

from bench.support import outcome
from bench.support.connection import Post
from bench.support.cpu import Meter
from bench.support.load import Generator, Load, generator, load
from bench.support.outcome import BenchError, Outcome
from bench.support.running import Alone, alone, last_sequence, limit, make_bench_stream, whole

CONNECTIONS = 64
BODY = b'{"text":"' + b"x" * (512 - 11) + b'"}'
KINDS = ("gateway", "with_repeats", "noop", "per_message")
# Seconds; short ones, so that what is compared is measured next to each other on a machine with other things to do.
SLOT = 2
WHOLE_ROUNDS = 2
FEWEST_ROUNDS = 3
DELIVERY = "X-Delivery"
# How much one sender that repeats itself may cost all others.
SLOWED = 0.1


async def measure(folder: Path, seconds: float) -> Outcome:
    """Measure for about so many seconds of load in all."""
    how = generator()
    rounds = max(FEWEST_ROUNDS, int(seconds / SLOT - 2 * WHOLE_ROUNDS) // len(KINDS))
    total = Meter({})
    secret = secrets.token_urlsafe(24)
    data = folder / "data"
    async with whole(data) as stack:
        settings = {"secret": secret, "delivery_header": DELIVERY}
        source = await stack.api.call("PUT", "/api/v1/sources/bench", body={"adapter": "hmac", "settings": settings})
        path = source["url"].removeprefix(stack.ready["url"])
        post = signed_post(source["url"], secret)
        await load(how, post, connections=CONNECTIONS, seconds=1)
        meter = Meter(stack.pids)
        wholes = [await load(how, post, connections=CONNECTIONS, seconds=2 * SLOT) for _ in range(WHOLE_ROUNDS)]
        whole_cores = meter.cores()
    async with AsyncExitStack() as running:
        parts = await running.enter_async_context(alone(data))
        await make_bench_stream(parts.nats_url)
        noop = await running.enter_async_context(limit())
        per_message = await running.enter_async_context(limit(parts.nats_url))
        posts = {
            kind: signed_post(url + path, secret)
            for kind, url in (("gateway", parts.url), ("noop", noop), ("per_message", per_message))
        }
        loads, repeats, cpu = await _in_turns(how, parts, posts, rounds)
    consumed = {"cpu_us_per_webhook": cpu, "whole_stack_cores": whole_cores, "elsewhere_cores": total.elsewhere()}
    return _outcome(how, loads, repeats, wholes, consumed)


async def _in_turns(
    how: Generator, parts: Alone, posts: Mapping[str, Post], rounds: int
) -> tuple[dict[str, list[Load]], list[Load], dict[str, float]]:
    """Return loads by kind, what the repeating sender did, and the CPU microseconds a webhook by process."""
    for post in posts.values():
        await load(how, post, connections=CONNECTIONS, seconds=1)
    before = await last_sequence(parts.nats_url, "WEBHOOKS")
    gateway = posts["gateway"]
    repeating = Post(url=gateway.url, headers={**gateway.headers, DELIVERY: "once"}, body=gateway.body)
    loads: dict[str, list[Load]] = {kind: [] for kind in KINDS}
    repeats: list[Load] = []
    cpu: dict[str, list[float]] = {name: [] for name in parts.pids}
    for _ in range(rounds):
        for kind in KINDS:
            if kind == "with_repeats":
                both = await asyncio.gather(
                    load(how, gateway, connections=CONNECTIONS, seconds=SLOT),
                    load(how, repeating, connections=1, seconds=SLOT),
                )
                loads[kind].append(both[0])
                repeats.append(both[1])
                continue
            meter = Meter(parts.pids)
            loads[kind].append(await load(how, posts[kind], connections=CONNECTIONS, seconds=SLOT))
            if kind == "gateway":
                for name, used in meter.seconds().items():
                    cpu[name].append(used / loads[kind][-1].completed * 1e6)
    stored = await last_sequence(parts.nats_url, "WEBHOOKS") - before
    answered = sum(one.completed for kind in ("gateway", "with_repeats") for one in loads[kind])
    if stored < answered:
        raise BenchError(f"{answered} webhooks were answered with 202 and {stored} are stored")
    return loads, repeats, {name: median(used) for name, used in cpu.items()}


def signed_post(url: str, secret: str) -> Post:
    """Return a webhook of the load to a source of the adapter `hmac`."""
    signature = hmac.new(secret.encode(), BODY, hashlib.sha256).hexdigest()
    return Post(url=url, headers={"Content-Type": "application/json", "X-Signature": signature}, body=BODY)


def _outcome(
    how: Generator, loads: Mapping[str, list[Load]], repeats: list[Load], wholes: list[Load], consumed: dict[str, Any]
) -> Outcome:
    per_s = {kind: median(one.per_s for one in loads[kind]) for kind in KINDS}
    figure = per_s["gateway"]
    noop = _ratio(loads["gateway"], loads["noop"])
    repeated = _ratio(loads["with_repeats"], loads["gateway"])
    return Outcome(
        name="ingest",
        figure=figure,
        unit="durable 202s per second",
        limit=per_s["noop"],
        ratio=noop,
        more={
            "generator": how,
            "connections": CONNECTIONS,
            "body_bytes": len(BODY),
            "per_s": figure,
            "p50_ms": median(one.p50_ms for one in loads["gateway"]),
            "p99_ms": median(one.p99_ms for one in loads["gateway"]),
            "noop_per_s": per_s["noop"],
            "ratio_noop": noop,
            "per_message_per_s": per_s["per_message"],
            "per_message_p99_ms": median(one.p99_ms for one in loads["per_message"]),
            "ratio_per_message": _ratio(loads["gateway"], loads["per_message"]),
            "duplicates_ratio": repeated,
            "duplicates_slow_others_by_less_than_a_tenth": repeated >= 1 - SLOWED,
            "duplicates_per_s": median(one.per_s for one in repeats),
            "whole_stack_per_s": median(one.per_s for one in wholes),
            "whole_stack_p99_ms": median(one.p99_ms for one in wholes),
            **consumed,
            "rounds_per_s": {kind: [round(one.per_s) for one in loads[kind]] for kind in KINDS},
        },
    )


def _ratio(these: list[Load], those: list[Load]) -> float:
    return median(one.per_s / other.per_s for one, other in zip(these, those, strict=True))


main = outcome.command(measure, seconds=60.0, about="Measure how many webhooks a second are admitted durably.")


if __name__ == "__main__":
    main()
