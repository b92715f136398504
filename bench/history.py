"""A million ended runs: what listing, getting and searching take then, and what a run takes on the bus and in Postgres.

Two hundred real runs, each with a line, are carried out first. What they added to streams and tables is the size of a run.
Then one of them is copied, with its rows and its messages of the archive, under new ids and at times of the last day, until there
are a million: within the database, since carrying them out would take hours. Every question goes through the API, at places in
the past chosen at random. The limit is an answer of the gateway that asks nobody.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import asyncpg
import click
import nats

from bench.support import outcome
from bench.support.outcome import BenchError, Outcome, percentile
from bench.support.running import Whole, whole

WORKFLOW = b"""
from millrace import log, workflow


@workflow
def sync_tickets(number: int) -> dict:
    log.info("tickets.fetched", count=number)
    return {"count": number}
"""
REAL = 200
RUNS = 1_000_000
# Copied by one statement; each takes some seconds.
PORTION = 50_000
CALLS = 200
SETTLED_WITHIN = 60.0
STREAMS = ("RUNS", "LINES")
TABLES = ("executor.run", "executor.line", "logs.message")
_COPY_RUNS = """
    INSERT INTO executor.run (id, org, workflow, status, requested_at, finished_at, last_seq, state, on_bus, concurrency_key, rank)
    SELECT n.id, one.org, one.workflow, one.status, n.at, n.at + interval '40 milliseconds', one.last_seq,
           replace(replace(replace(one.state::text, one.id, n.id), one.correlation, n.id), one.requested, n.written)::json,
           'gone', one.concurrency_key, one.rank
      FROM (SELECT 'copy-' || number AS id, now() - number * interval '1 day' / $2 AS at,
                   to_char((now() - number * interval '1 day' / $2) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS written
              FROM generate_series($3::bigint, $4::bigint) AS number) AS n,
           (SELECT *, state ->> 'correlation_id' AS correlation, state ->> 'requested_at' AS requested
              FROM executor.run WHERE id = $1) AS one
"""
_COPY_MESSAGES = """
    INSERT INTO logs.message (time, stream, incarnation, seq, id, type, level, service, org, key, run, correlation_id, causation_id,
                              message, data, document, said_at, tsv, workflow, line)
    SELECT n.at, one.stream, 'copies of ' || one.stream, number * 10 + one.place, one.id || number, one.type, one.level,
           one.service, one.org, n.id, n.id, n.id, one.causation_id, one.message, one.data, one.document, n.at, one.tsv,
           one.workflow, one.line
      FROM (SELECT number, 'copy-' || number AS id, now() - number * interval '1 day' / $2 AS at
              FROM generate_series($3::bigint, $4::bigint) AS number) AS n,
           (SELECT *, row_number() OVER () AS place FROM logs.message WHERE run = $1) AS one
"""


class Asked:
    """Asks the API and keeps how long each answer took."""

    def __init__(self, session: aiohttp.ClientSession, stack: Whole) -> None:
        self._session = session
        self._url = stack.ready["url"]

    async def get(self, path: str) -> tuple[float, Any]:
        """Return the milliseconds until the whole answer was there, and the answer. Raises `BenchError`."""
        began = time.perf_counter()
        async with self._session.get(self._url + path) as response:
            body = await response.read()
            taken = (time.perf_counter() - began) * 1000
            if response.status != 200:
                raise BenchError(f"{path}: {response.status} {body[:300].decode(errors='replace')}")
            return taken, await response.json()


async def measure(folder: Path, runs: int) -> Outcome:
    """Measure with so many runs in the database."""
    async with whole(folder / "data") as stack:
        rows = await asyncpg.connect(stack.ready["database_url"], statement_cache_size=0)
        try:
            before = await _sizes(stack, rows)
            sample = await _carried_out(stack, rows)
            after = await _sizes(stack, rows)
            began = time.perf_counter()
            await _copied(rows, sample, runs)
            seconds = time.perf_counter() - began
            full = await _sizes(stack, rows)
            headers = {"Authorization": f"Bearer {stack.ready['admin_key']}"}
            async with aiohttp.ClientSession(headers=headers) as session:
                taken = await _answers(Asked(session, stack), runs)
        finally:
            await rows.close()
    each = {name: (after[name] - before[name]) / REAL for name in after}
    return _outcome(runs, taken, each, {name: full[name] / runs for name in TABLES}, seconds)


async def _carried_out(stack: Whole, rows: asyncpg.Connection[Any]) -> str:
    """Carry real runs out, one after the other; return the id of one when all rows and the archive have them."""
    view = await stack.api.call("PUT", "/api/v1/workspace/files/workflows/history.py", data=WORKFLOW)
    if view["problems"]:
        raise BenchError(f"the workflow cannot be deployed: {view['problems'][0]['message']}")
    run: dict[str, Any] = {}
    for number in range(REAL):
        run = await stack.api.call("POST", "/api/v1/workflows/sync_tickets/runs?wait=30", body={"input": {"number": number}})
        if run["status"] != "succeeded":
            raise BenchError(f"a run {run['status']}: {run['error']}")
    deadline = time.monotonic() + SETTLED_WITHIN
    archived = "SELECT count(*) FROM logs.message WHERE type IN ('run.succeeded', 'line.logged') AND line <= 0"
    while await rows.fetchval(archived) < 2 * REAL:
        if time.monotonic() > deadline:
            raise BenchError("the archive does not get all messages of the runs")
        await asyncio.sleep(0.1)
    return str(run["id"])


async def _sizes(stack: Whole, rows: asyncpg.Connection[Any]) -> dict[str, float]:
    """Return the bytes of each stream and of each table with its indexes."""
    sizes: dict[str, float] = {}
    client = await nats.connect(stack.ready["nats_url"])
    try:
        for stream in STREAMS:
            sizes[stream] = (await client.jetstream().stream_info(stream)).state.bytes
    finally:
        await client.close()
    for table in TABLES:
        parts = "SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree($1::regclass)"
        whole_ = "SELECT pg_total_relation_size($1::regclass)"
        sizes[table] = float(await rows.fetchval(parts, table) or await rows.fetchval(whole_, table))
    return sizes


async def _copied(rows: asyncpg.Connection[Any], sample: str, runs: int) -> None:
    await rows.execute("SET synchronous_commit = off")
    for first in range(0, runs, PORTION):
        last = min(runs, first + PORTION) - 1
        await rows.execute(_COPY_RUNS, sample, runs, first, last, timeout=600)
        await rows.execute(_COPY_MESSAGES, sample, runs, first, last, timeout=600)
    for table in TABLES:
        await rows.execute(f"ANALYZE {table}", timeout=600)


async def _answers(asked: Asked, runs: int) -> dict[str, list[float]]:
    """Ask each question again and again, in turns."""
    chosen = random.Random(1)

    def moment() -> str:
        return quote(datetime.fromtimestamp(time.time() - chosen.random() * 80_000).astimezone().isoformat())

    questions: dict[str, Callable[[], str]] = {
        "healthz": lambda: "/healthz",
        "list": lambda: "/api/v1/runs?limit=50",
        "list_before_a_time": lambda: f"/api/v1/runs?limit=50&until={moment()}",
        "list_of_a_status": lambda: f"/api/v1/runs?limit=50&status=succeeded&until={moment()}",
        "list_of_a_workflow": lambda: f"/api/v1/runs?limit=50&workflow=sync_tickets&until={moment()}",
        "get": lambda: f"/api/v1/runs/copy-{chosen.randrange(runs)}",
        "search_a_run": lambda: f"/api/v1/logs?limit=50&q=run:copy-{chosen.randrange(runs)}",
        "search_a_type": lambda: f"/api/v1/logs?limit=50&q=type:run.succeeded&to={moment()}",
        "search_words": lambda: f"/api/v1/logs?limit=50&q=tickets.fetched&to={moment()}",
    }
    taken: dict[str, list[float]] = {name: [] for name in questions}
    for _ in range(CALLS):
        for name, path in questions.items():
            milliseconds, answer = await asked.get(path())
            if "items" in answer and not answer["items"]:
                raise BenchError(f"{name} found nothing")
            taken[name].append(milliseconds)
    return taken


def _outcome(runs: int, taken: dict[str, list[float]], each: dict[str, float], stored: dict[str, float], seconds: float) -> Outcome:
    slowest = max((name for name in taken if name != "healthz"), key=lambda name: percentile(taken[name], 95))
    figure, bare = percentile(taken[slowest], 95), percentile(taken["healthz"], 95)
    return Outcome(
        name="history",
        figure=figure,
        unit=f"ms, p95 of the slowest question ({slowest})",
        limit=bare,
        ratio=figure / bare,
        more={
            "runs": runs,
            "p95_ms": {name: percentile(values, 95) for name, values in taken.items()},
            "p50_ms": {name: percentile(values, 50) for name, values in taken.items()},
            "bytes_per_real_run": each,
            "bytes_per_copied_run": stored,
            "bytes_per_run_on_the_bus": sum(each[stream] for stream in STREAMS),
            "bytes_per_run_in_postgres": sum(stored.values()),
            "copied_in_s": seconds,
        },
    )


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one line of JSON last.")
@click.option("--runs", default=RUNS, show_default=True, help="How many ended runs there are to be.")
def main(*, as_json: bool, runs: int) -> None:
    """Fill the database with ended runs, and measure what looking at them takes."""
    raise SystemExit(outcome.main(lambda folder, _seconds: measure(folder, runs), seconds=0, as_json=as_json))


if __name__ == "__main__":
    main()
