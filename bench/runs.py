"""A run by the API: from the call with `wait` to its result, and how many are carried out in a second.

The workflow does nothing. Idle: one call after the other. In turns with that, the floor: an HTTP request that is only read and
answered, and as many bare publishes, one after the other, as a run has messages that wait for each other (requested, started,
succeeded). Then so many runs at 64 in flight: each in a process of its own, as many with `isolation="workflow"`, as many of a
second such workflow right after it, and of one that uses the processor for 1.5 ms. It counts when all of them are answered, and the
rows and the archive must show every one of them as succeeded.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import nats

from bench.support import outcome
from bench.support.callers import Answer, Callers
from bench.support.connection import Post
from bench.support.cpu import Meter
from bench.support.outcome import BenchError, Outcome, percentile
from bench.support.running import Whole, limit, make_bench_stream, whole
from bench.support.webhooks import floor

WORKFLOWS = b"""
import time

from millrace import workflow


@workflow
def noop() -> None:
    return None


@workflow(isolation="workflow")
def noop_staying() -> None:
    return None


@workflow(isolation="workflow")
def noop_second() -> None:
    return None


@workflow(isolation="workflow")
def work_staying() -> None:
    until = time.thread_time() + 0.0015
    while time.thread_time() < until:
        pass
"""
IDLE = ("noop", "noop_staying")
LOADED = ("noop", "noop_staying", "noop_second", "work_staying")
MESSAGES = 3
IN_FLIGHT = 64
# Calls of one kind before the other kind's turn, and of all turns together for each second that the bench may take.
TURN = 10
IDLE_PER_SECOND = 4
# Runs of each kind of isolation.
RUNS = 2000
WARM_UP = 50
STORED_WITHIN = 60.0


async def measure(folder: Path, seconds: float) -> Outcome:
    """Measure; `seconds` bounds the idle part."""
    total = Meter({})
    async with whole(folder / "data") as stack, limit() as bare:
        view = await stack.api.call("PUT", "/api/v1/workspace/files/workflows/noop.py", data=WORKFLOWS)
        if view["problems"]:
            raise BenchError(f"the workflows cannot be deployed: {view['problems'][0]['message']}")
        await make_bench_stream(stack.ready["nats_url"])
        calls = {name: Callers(_post(stack, name), 200) for name in LOADED}
        http = Callers(Post(url=f"{bare}/hooks/x", headers={}, body=b"{}"), 202)
        client = await nats.connect(stack.ready["nats_url"])
        archive = await asyncpg.connect(stack.ready["database_url"])
        try:
            await calls["noop"].many(WARM_UP, 4)
            idle = await _idle({name: calls[name] for name in IDLE}, http, client, max(5, int(seconds * IDLE_PER_SECOND) // TURN))
            loaded = {name: await _loaded(name, one, stack, archive) for name, one in calls.items()}
        finally:
            for one in (*calls.values(), http):
                one.close()
            await client.close()
            await archive.close()
    return _outcome(idle, loaded, total.elsewhere())


def _post(stack: Whole, workflow: str) -> Post:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {stack.ready['admin_key']}"}
    return Post(url=f"{stack.ready['url']}/api/v1/workflows/{workflow}/runs?wait=60", headers=headers, body=b'{"input":{}}')


async def _idle(calls: dict[str, Callers], http: Callers, client: Any, turns: int) -> dict[str, list[float]]:
    """Return the milliseconds of both kinds of run, of the HTTP request and of the publishes, measured in turns."""
    measured: dict[str, list[float]] = {"noop": [], "noop_staying": [], "http": [], "publishes": []}
    for _ in range(turns):
        for name, caller in (*calls.items(), ("http", http)):
            measured[name] += [_checked(await caller.call(), name).milliseconds for _ in range(TURN)]
        measured["publishes"] += [taken * 1000 for taken in await floor(client, MESSAGES, TURN)]
    return measured


def _checked(answer: Answer, name: str) -> Answer:
    if name != "http":
        run = msgspec.json.decode(answer.body)
        if run["status"] != "succeeded":
            raise BenchError(f"a run of a workflow that does nothing {run['status']}: {run['error']}")
    return answer


async def _loaded(name: str, caller: Callers, stack: Whole, archive: asyncpg.Connection[Any]) -> dict[str, Any]:
    """Carry so many runs out; return how many a second, their latency, and the CPU of each."""
    before = await _stored(archive, name)
    meter = Meter(stack.pids)
    began = time.perf_counter()
    answers = [_checked(one, name) for one in await caller.many(RUNS, IN_FLIGHT)]
    taken = time.perf_counter() - began
    consumed = meter.seconds()
    deadline = time.monotonic() + STORED_WITHIN
    while (stored := await _stored(archive, name)) != (before[0] + RUNS, before[1] + RUNS):
        if time.monotonic() > deadline:
            raise BenchError(f"of {RUNS} runs {stored[0] - before[0]} are rows and {stored[1] - before[1]} are archived as ended")
        await asyncio.sleep(0.1)
    times = [one.milliseconds for one in answers]
    cpu = {part: used / RUNS * 1000 for part, used in consumed.items()}
    return {
        "per_s": RUNS / taken,
        "p50_ms": percentile(times, 50),
        "p99_ms": percentile(times, 99),
        "cpu_ms_per_run": {**cpu, "all": sum(cpu.values())},
    }


async def _stored(archive: asyncpg.Connection[Any], workflow: str) -> tuple[int, int]:
    """Return how many of a workflow's runs are rows that say so, and how many ends of them the archive holds."""
    rows = await archive.fetchval("SELECT count(*) FROM executor.run WHERE workflow = $1 AND status = 'succeeded'", workflow)
    ends = await archive.fetchval(
        "SELECT count(*) FROM logs.message JOIN executor.run ON run.id = message.run"
        " WHERE message.type = 'run.succeeded' AND run.workflow = $1",
        workflow,
    )
    return rows, ends


def _outcome(idle: dict[str, list[float]], loaded: dict[str, dict[str, Any]], elsewhere: float) -> Outcome:
    figure = percentile(idle["noop"], 50)
    bare = percentile(idle["http"], 50) + percentile(idle["publishes"], 50)
    return Outcome(
        name="runs",
        figure=figure,
        unit="ms from the call to the result",
        limit=bare,
        ratio=figure / bare,
        more={
            "idle_p50_ms": figure,
            "idle_p99_ms": percentile(idle["noop"], 99),
            "idle_staying_p50_ms": percentile(idle["noop_staying"], 50),
            "idle_staying_p99_ms": percentile(idle["noop_staying"], 99),
            "floor_ms": bare,
            "floor_http_ms": percentile(idle["http"], 50),
            "floor_publishes_ms": percentile(idle["publishes"], 50),
            "floor_ratio": figure / bare,
            "runs": RUNS,
            "in_flight": IN_FLIGHT,
            "isolated_per_s": loaded["noop"]["per_s"],
            "workflow_per_s": loaded["noop_staying"]["per_s"],
            "second_workflow_per_s": loaded["noop_second"]["per_s"],
            "working_per_s": loaded["work_staying"]["per_s"],
            "isolated": loaded["noop"],
            "workflow": loaded["noop_staying"],
            "second_workflow": loaded["noop_second"],
            "working": loaded["work_staying"],
            "elsewhere_cores": elsewhere,
        },
    )


main = outcome.command(
    measure, seconds=30.0, about="Measure how long a run takes by the API, and how many are carried out in a second."
)


if __name__ == "__main__":
    main()
