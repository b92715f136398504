"""Durable 202s per second: what the gateway admits with 64 connections, beside what its parts could do at most.

The load: bodies of 512 bytes, signed with HMAC-SHA256 and checked, no delivery id of the sender's, so that every request is
a new delivery. All share this machine's cores: load, gateway, broker. Measured in turns, medians of all rounds:

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

import click

from bench.support import outcome
from bench.support.connection import Post
from bench.support.cpu import Meter
from bench.support.load import Generator, Load, generator, load
from bench.support.outcome import BenchError, Outcome
from bench.support.running import Alone, alone, last_sequence, limit, make_bench_stream, whole

CONNECTIONS = 64
BODY = b'{"text":"' + b"x" * (512 - 11) + b'"}'
# Enough that a median forgets a round in which the machine was busy elsewhere.
ROUNDS = 5
KINDS = ("gateway", "noop", "per_message", "with_repeats")
WHOLE_ROUNDS = 2
DELIVERY = "X-Delivery"
# How much one sender that repeats itself may cost all others.
SLOWED = 0.1


async def measure(folder: Path, seconds: float) -> Outcome:
    """Measure for about so many seconds of load in all."""
    how = generator()
    slot = max(1, round(seconds / (ROUNDS * len(KINDS) + 2 * WHOLE_ROUNDS)))
    secret = secrets.token_urlsafe(24)
    data = folder / "data"
    async with whole(data) as stack:
        settings = {"secret": secret, "delivery_header": DELIVERY}
        source = await stack.api.call("PUT", "/api/v1/sources/bench", body={"adapter": "hmac", "settings": settings})
        path = source["url"].removeprefix(stack.ready["url"])
        post = _post(source["url"], secret)
        await load(how, post, connections=CONNECTIONS, seconds=1)
        meter = Meter(stack.pids)
        wholes = [await load(how, post, connections=CONNECTIONS, seconds=2 * slot) for _ in range(WHOLE_ROUNDS)]
        whole_cores = meter.cores()
    async with AsyncExitStack() as running:
        parts = await running.enter_async_context(alone(data))
        await make_bench_stream(parts.nats_url)
        noop = await running.enter_async_context(limit())
        per_message = await running.enter_async_context(limit(parts.nats_url))
        posts = {
            kind: _post(url + path, secret)
            for kind, url in (("gateway", parts.url), ("noop", noop), ("per_message", per_message))
        }
        loads, repeats, cores = await _in_turns(how, parts, posts, slot)
    return _outcome(how, loads, repeats, {"whole_stack": whole_cores, "alone": cores}, wholes)


async def _in_turns(
    how: Generator, parts: Alone, posts: Mapping[str, Post], slot: int
) -> tuple[dict[str, list[Load]], list[Load], dict[str, float]]:
    """Return loads by kind, what the repeating sender did, and the cores that the gateway and the broker kept busy."""
    for post in posts.values():
        await load(how, post, connections=CONNECTIONS, seconds=1)
    before = await last_sequence(parts.nats_url, "WEBHOOKS")
    gateway = posts["gateway"]
    repeating = Post(url=gateway.url, headers={**gateway.headers, DELIVERY: "once"}, body=gateway.body)
    loads: dict[str, list[Load]] = {kind: [] for kind in KINDS}
    repeats: list[Load] = []
    cores: dict[str, list[float]] = {name: [] for name in parts.pids}
    for _ in range(ROUNDS):
        for kind, post in posts.items():
            meter = Meter(parts.pids)
            loads[kind].append(await load(how, post, connections=CONNECTIONS, seconds=slot))
            if kind == "gateway":
                for name, busy in meter.cores().items():
                    cores[name].append(busy)
        both = await asyncio.gather(
            load(how, gateway, connections=CONNECTIONS, seconds=slot), load(how, repeating, connections=1, seconds=slot)
        )
        loads["with_repeats"].append(both[0])
        repeats.append(both[1])
    stored = await last_sequence(parts.nats_url, "WEBHOOKS") - before
    answered = sum(one.completed for kind in ("gateway", "with_repeats") for one in loads[kind])
    if stored < answered:
        raise BenchError(f"{answered} webhooks were answered with 202 and {stored} are stored")
    return loads, repeats, {name: median(busy) for name, busy in cores.items()}


def _post(url: str, secret: str) -> Post:
    signature = hmac.new(secret.encode(), BODY, hashlib.sha256).hexdigest()
    return Post(url=url, headers={"Content-Type": "application/json", "X-Signature": signature}, body=BODY)


def _outcome(
    how: Generator, loads: Mapping[str, list[Load]], repeats: list[Load], cores: dict[str, Any], wholes: list[Load]
) -> Outcome:
    per_s = {kind: median(one.per_s for one in loads[kind]) for kind in KINDS}
    figure = per_s["gateway"]
    ratio = per_s["with_repeats"] / figure
    return Outcome(
        name="ingest",
        figure=figure,
        unit="durable 202s per second",
        limit=per_s["noop"],
        ratio=figure / per_s["noop"],
        more={
            "generator": how,
            "connections": CONNECTIONS,
            "body_bytes": len(BODY),
            "per_s": figure,
            "p50_ms": median(one.p50_ms for one in loads["gateway"]),
            "p99_ms": median(one.p99_ms for one in loads["gateway"]),
            "noop_per_s": per_s["noop"],
            "ratio_noop": figure / per_s["noop"],
            "per_message_per_s": per_s["per_message"],
            "per_message_p99_ms": median(one.p99_ms for one in loads["per_message"]),
            "ratio_per_message": figure / per_s["per_message"],
            "duplicates_ratio": ratio,
            "duplicates_slow_others_by_less_than_a_tenth": ratio >= 1 - SLOWED,
            "duplicates_per_s": median(one.per_s for one in repeats),
            "whole_stack_per_s": median(one.per_s for one in wholes),
            "whole_stack_p99_ms": median(one.p99_ms for one in wholes),
            "cores": cores,
            "rounds_per_s": {kind: [round(one.per_s) for one in loads[kind]] for kind in KINDS},
        },
    )


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one line of JSON last.")
@click.option("--seconds", default=60.0, show_default=True, help="How long to send load in all.")
def main(*, as_json: bool, seconds: float) -> None:
    """Measure how many webhooks a second are admitted durably."""
    raise SystemExit(outcome.main(measure, seconds=seconds, as_json=as_json))


if __name__ == "__main__":
    main()
