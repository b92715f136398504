"""`python -m bench.support.sender`: sends load where wrk is missing; a plan on standard input, figures on standard output."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import msgspec
import uvloop

from bench.support.connection import Connection, Post
from bench.support.outcome import percentile


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Send `post` over so many connections, each as fast as it is answered, for so many seconds."""

    post: Post
    connections: int
    seconds: float


class _Tally:
    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.failed = 0
        self.stopping = False


async def _keep_sending(plan: Plan, encoded: bytes, tally: _Tally) -> Connection:
    sent = 0.0

    def answered(status: int, _body: bytes) -> None:
        nonlocal sent
        now = time.perf_counter()
        if tally.stopping:
            return
        if status < 300:
            tally.latencies.append(now - sent)
        else:
            tally.failed += 1
        sent = now
        connection.send(encoded)

    def lost() -> None:
        tally.failed += not tally.stopping

    connection = await Connection.open(plan.post.url, answered, lost)
    sent = time.perf_counter()
    connection.send(encoded)
    return connection


async def _send(plan: Plan) -> dict[str, Any]:
    tally = _Tally()
    encoded = plan.post.encoded()
    began = time.perf_counter()
    connections = await asyncio.gather(*(_keep_sending(plan, encoded, tally) for _ in range(plan.connections)))
    await asyncio.sleep(plan.seconds)
    tally.stopping = True
    took = time.perf_counter() - began
    for connection in connections:
        connection.close()
    latencies = tally.latencies or [0.0]
    return {
        "completed": len(tally.latencies),
        "failed": tally.failed,
        "seconds": took,
        "p50_ms": percentile(latencies, 50) * 1000,
        "p99_ms": percentile(latencies, 99) * 1000,
    }


if __name__ == "__main__":
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(_send(given))))
