"""What the API answers a second, route by route, beside an aiohttp route that returns the same bytes.

Requests of one route at a time, so many at once over kept connections, each after the answer to the last; in turns with the other
server's. Each begins once what the one before left to do is done. By route (`routes`):

- `per_s`, `p99_ms`: answers a second, and the slowest but one of a hundred;
- `same_per_s`, `same_p99_ms`: those of the aiohttp route;
- `cpu_ms`: of the processor for one request, in services, broker and database: other work on the machine changes it less;
- `statements`: of the services in the database for one request, counted in its log, those of other work in the same time left out;
- `bytes` of an answer. Lists have a hundred items.

The figure is the median of `per_s` over reads, the limit that of `same_per_s`.
"""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import asyncpg
import msgspec

from bench.support import outcome
from bench.support.callers import Callers
from bench.support.connection import Post
from bench.support.cpu import Meter
from bench.support.outcome import BenchError, Outcome, percentile
from bench.support.running import Whole, limit, whole

AT_ONCE = 16
ITEMS = 100
# Requests for which statements are counted.
COUNTED = 40
# Seconds for what a route leaves to do.
RESTED_WITHIN = 60.0
# Statements of requests: those of locks have connections of other names, and beginnings and ends of transactions go along.
_STATEMENT = re.compile(rb"\] millrace_\w+@\S+ LOG:  (?:statement|execute [^:]*): (?!BEGIN|COMMIT|ROLLBACK)")
CODE = b"""
from millrace import workflow
@workflow(name="touch")
def touch() -> int:
    return 1
"""


class Route(msgspec.Struct, frozen=True):
    """One route: what is asked, and the status of its answer."""

    name: str
    method: str
    path: str
    status: int = 200
    body: bytes = b""


READS = (
    Route("one variable", "GET", "/api/v1/variables/v000"),
    Route("variables", "GET", f"/api/v1/variables?limit={ITEMS}"),
    Route("sources", "GET", f"/api/v1/sources?limit={ITEMS}"),
    Route("runs", "GET", f"/api/v1/runs?limit={ITEMS}"),
    Route("deliveries", "GET", f"/api/v1/deliveries?limit={ITEMS}"),
    Route("workflows", "GET", "/api/v1/workflows"),
    Route("files", "GET", f"/api/v1/workspace/files?limit={ITEMS}"),
    Route("logs", "GET", f"/api/v1/logs?limit={ITEMS}"),
)
WRITES = (
    Route("a variable, the same again", "PUT", "/api/v1/variables/v000", body=b'{"value": 0}'),
    Route("a run", "POST", "/api/v1/workflows/touch/runs", 202, b'{"input": {}}'),
    Route("an event", "POST", "/api/v1/sources/topic/events", 202, b'{"type": "a.b", "data": {}}'),
)


async def measure(folder: Path, seconds: float) -> Outcome:
    """Measure each route for about its share of so many seconds."""
    each = max(0.5, seconds / (2 * len(READS + WRITES)))
    async with whole(folder / "data") as stack, limit() as other, aiohttp.ClientSession() as session:
        await _filled(stack)
        counted = await _statements(stack, session, folder / "data")
        routes: dict[str, dict[str, Any]] = {}
        for route in READS + WRITES:
            ours = Post(url=stack.ready["url"] + route.path, headers=_headers(stack), body=route.body, method=route.method)
            example = await _once(session, ours, route)
            async with session.put(f"{other}/same", data=example) as kept:
                kept.raise_for_status()
            same = Post(url=f"{other}/same", headers={}, body=route.body, method="GET" if route.method == "GET" else "POST")
            await _rested(stack)
            meter = Meter(stack.pids)
            mine = await _asked(ours, route.status, each)
            spent = sum(meter.seconds().values())
            theirs = await _asked(same, 200, each)
            routes[route.name] = {
                "per_s": mine[0],
                "p99_ms": mine[1],
                "cpu_ms": 1000 * spent / mine[2],
                "same_per_s": theirs[0],
                "same_p99_ms": theirs[1],
                "statements": counted[route.name],
                "bytes": len(example),
            }
    reads = [routes[route.name] for route in READS]
    figure, best = median(one["per_s"] for one in reads), median(one["same_per_s"] for one in reads)
    return Outcome(
        name="api", figure=figure, unit="reads/s", limit=best, ratio=figure / best, more={"at_once": AT_ONCE, "routes": routes}
    )


def _headers(stack: Whole) -> dict[str, str]:
    return {"Authorization": f"Bearer {stack.ready['admin_key']}", "Content-Type": "application/json"}


async def _filled(stack: Whole) -> None:
    """Make a hundred of each thing that is listed."""
    await stack.api.call("PUT", "/api/v1/workspace/files/touch.py", data=CODE)
    await stack.api.call("PUT", "/api/v1/sources/topic", body={"adapter": "topic", "settings": {}})
    for number in range(ITEMS):
        await stack.api.call("PUT", f"/api/v1/variables/v{number:03}", body={"value": number})
        settings = {"adapter": "hmac", "settings": {"secret": "a secret of some length"}}
        await stack.api.call("PUT", f"/api/v1/sources/s{number:03}", body=settings)
        await stack.api.call("POST", "/api/v1/workflows/touch/runs?wait=30", body={"input": {}})
        await stack.api.call("POST", "/api/v1/sources/topic/events", body={"type": "a.b", "data": {}})
        await stack.api.call("PUT", f"/api/v1/workspace/files/data/f{number:03}.txt", data=b"x")


async def _rested(stack: Whole) -> None:
    """Wait until no run is left to do, and no event to route."""
    async with asyncio.timeout(RESTED_WITHIN):
        for path in ("runs?status=queued&limit=1", "runs?status=running&limit=1", "deliveries?status=accepted&limit=1"):
            while (await stack.api.call("GET", f"/api/v1/{path}"))["items"]:
                await asyncio.sleep(0.2)


async def _once(session: aiohttp.ClientSession, post: Post, route: Route) -> bytes:
    async with session.request(post.method, post.url, data=post.body or None, headers=post.headers) as answer:
        body = await answer.read()
        if answer.status != route.status:
            raise BenchError(f"{route.path} was answered {answer.status}: {body[:300].decode(errors='replace')}")
        return body


async def _asked(post: Post, expected: int, seconds: float) -> tuple[float, float, int]:
    """Return how many answers a second there were, the 99th percentile of their milliseconds, and how many in all."""
    callers = Callers(post, expected)
    try:
        await callers.many(AT_ONCE, AT_ONCE)
        began = time.perf_counter()
        answers = [one async for one in _rounds(callers, began + seconds)]
        took = time.perf_counter() - began
        return len(answers) / took, percentile(answers, 99), len(answers) + AT_ONCE
    finally:
        callers.close()


async def _rounds(callers: Callers, until: float) -> Any:
    while time.perf_counter() < until:
        for one in await callers.many(4 * AT_ONCE, AT_ONCE):
            yield one.milliseconds


async def _statements(stack: Whole, session: aiohttp.ClientSession, data: Path) -> dict[str, float]:
    """Return how many statements a request of each route is, by its name."""
    (log,) = data.rglob("postgres.log")
    connection = await asyncpg.connect(stack.ready["database_url"])
    try:
        await connection.execute("ALTER SYSTEM SET log_statement = 'all'")
        await connection.execute("SELECT pg_reload_conf()")
        found: dict[str, float] = {}
        for route in READS + WRITES:
            post = Post(url=stack.ready["url"] + route.path, headers=_headers(stack), body=route.body, method=route.method)
            began = time.perf_counter()
            with_requests = await _logged(log, [_once(session, post, route) for _ in range(COUNTED)])
            took = time.perf_counter() - began
            without = await _logged(log, [asyncio.sleep(took)])
            found[route.name] = max(0.0, (with_requests - without) / COUNTED)
        await connection.execute("ALTER SYSTEM RESET log_statement")
        await connection.execute("SELECT pg_reload_conf()")
        return found
    finally:
        await connection.close()


async def _logged(log: Path, work: list[Any]) -> int:
    """Return how many statements are logged while some work is done, one after the other."""
    at = log.stat().st_size
    for one in work:
        await one
    with log.open("rb") as file:
        file.seek(at)
        return len(_STATEMENT.findall(file.read()))


main = outcome.command(measure, seconds=30.0, about="Measure the API's routes beside an aiohttp route with the same bytes.")

if __name__ == "__main__":
    main()
