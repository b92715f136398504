"""A burst: five hundred runs asked for at once, where none were. Draws what waits, what the pool does, and how long each run took.

Each run sleeps for a tenth of a second, as one that asks another system does. The limit is that of the slots: all runs after each
other in as many rows as one organization has slots, each taking as long as one takes alone, measured before in the same run.
"""

from __future__ import annotations

import asyncio
import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import click
import msgspec
import nats

from bench.support import outcome
from bench.support.callers import Callers
from bench.support.connection import Post
from bench.support.outcome import BenchError, Outcome, percentile
from bench.support.plot import Curve, Panel, draw
from bench.support.running import Whole, whole
from services.executor.runs.shares import room

WORKFLOW = b"""
import time

from millrace import workflow


@workflow
def ask_around() -> None:
    time.sleep(0.1)
"""
RUNS = 500
CALLERS = 32
ALONE = 10
EVERY = 0.05
WITHIN = 120.0
CONSUMER = "executor-runs-normal"
PICTURE = "bench-burst.png"


class Sample(msgspec.Struct, frozen=True):
    """What was seen at a moment, in seconds from the burst."""

    at: float
    queued: int
    pool: dict[str, int]


async def measure(folder: Path, picture: Path) -> Outcome:
    """Measure once, and draw."""
    async with whole(folder / "data") as stack:
        view = await stack.api.call("PUT", "/api/v1/workspace/files/workflows/burst.py", data=WORKFLOW)
        if view["problems"]:
            raise BenchError(f"the workflow cannot be deployed: {view['problems'][0]['message']}")
        rows = await asyncpg.connect(stack.ready["database_url"])
        alone, burst = Callers(_post(stack, "?wait=30"), 200), Callers(_post(stack, ""), 202)
        try:
            single = percentile([(await alone.call()).milliseconds for _ in range(ALONE)], 50) / 1000
            began = time.time()
            watching = asyncio.create_task(_watch(stack, rows, began))
            await burst.many(RUNS, CALLERS)
            samples = await watching
            found = await rows.fetch(
                "SELECT state FROM executor.run WHERE requested_at >= $1 ORDER BY requested_at",
                datetime.fromtimestamp(began).astimezone(),
            )
        finally:
            alone.close()
            burst.close()
            await rows.close()
    runs = [json.loads(row["state"]) for row in found]
    if len(runs) != RUNS or any(run["status"] != "succeeded" for run in runs):
        raise BenchError(f"of {RUNS} runs {sum(run['status'] == 'succeeded' for run in runs)} succeeded")
    return _outcome(runs, samples, single, began, picture)


def _post(stack: Whole, query: str) -> Post:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {stack.ready['admin_key']}"}
    return Post(url=f"{stack.ready['url']}/api/v1/workflows/ask_around/runs{query}", headers=headers, body=b'{"input":{}}')


async def _watch(stack: Whole, rows: asyncpg.Connection[Any], began: float) -> list[Sample]:
    """Look again and again until all have ended."""
    samples: list[Sample] = []
    client = await nats.connect(stack.ready["nats_url"])
    try:
        js = client.jetstream()
        async with aiohttp.ClientSession() as session:
            while True:
                info = await js.consumer_info("RUNS", CONSUMER)
                async with session.get(stack.ready["url"] + "/readyz") as response:
                    ready = await response.json()
                executor = ready["services"]["executor"]
                # Those that are taken without a run that goes on in them hold what is over the organization's share.
                pool = executor["pool"] | {"going_on": sum(executor["shares"]["running"].values())}
                samples.append(Sample(time.time() - began, info.num_pending or 0, pool))
                ended = await rows.fetchval(
                    "SELECT count(*) FROM executor.run WHERE finished_at >= $1", datetime.fromtimestamp(began).astimezone()
                )
                if ended >= RUNS:
                    return samples
                if time.time() - began > WITHIN:
                    raise BenchError(f"{ended} of {RUNS} runs have ended within {WITHIN:g} s")
                await asyncio.sleep(EVERY)
    finally:
        await client.close()


def _outcome(runs: list[dict[str, Any]], samples: list[Sample], single: float, began: float, picture: Path) -> Outcome:
    requested = [datetime.fromisoformat(run["requested_at"]).timestamp() - began for run in runs]
    waited = [datetime.fromisoformat(run["started_at"]).timestamp() - began - at for run, at in zip(runs, requested, strict=True)]
    taken = [datetime.fromisoformat(run["finished_at"]).timestamp() - began - at for run, at in zip(runs, requested, strict=True)]
    seconds = max(at + one for at, one in zip(requested, taken, strict=True))
    slots = room(0, samples[0].pool["slots"])
    ideal = RUNS * single / slots
    ended = [at + one for at, one in zip(requested, taken, strict=True)]
    _draw(picture, samples, ended, waited, taken)
    return Outcome(
        name="burst",
        figure=seconds,
        unit=f"s until {RUNS} runs asked for at once had ended",
        limit=ideal,
        ratio=seconds / ideal,
        more={
            "runs": RUNS,
            "slots": slots,
            "alone_ms": single * 1000,
            "queue_p50_ms": percentile(waited, 50) * 1000,
            "queue_p95_ms": percentile(waited, 95) * 1000,
            "whole_p50_ms": percentile(taken, 50) * 1000,
            "whole_p95_ms": percentile(taken, 95) * 1000,
            "most_queued": max(sample.queued for sample in samples),
            "most_at_once": max(sample.pool["going_on"] for sample in samples),
            "pool_target": [min(sample.pool["target"] for sample in samples), max(sample.pool["target"] for sample in samples)],
            "picture": str(picture),
        },
    )


def _draw(picture: Path, samples: list[Sample], ended: list[float], waited: list[float], taken: list[float]) -> None:
    def of(name: str) -> list[tuple[float, float]]:
        return [(sample.at, float(sample.pool[name])) for sample in samples]

    panels = [
        Panel("runs that wait for a worker", [Curve("queued", [(sample.at, float(sample.queued)) for sample in samples])]),
        Panel(
            "children",
            [
                Curve("runs that go on", of("going_on")),
                Curve("ready and placed", of("placed")),
                Curve("ready and blank", of("blank")),
                Curve("the pool's aim", of("target")),
            ],
        ),
        Panel(
            "seconds that a run had waited and taken, by the moment of its end",
            [
                Curve("until it began", sorted(zip(ended, waited, strict=True))),
                Curve("until it had ended", sorted(zip(ended, taken, strict=True))),
            ],
        ),
    ]
    draw(picture, f"{RUNS} runs asked for at once", panels)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one line of JSON last.")
@click.option("--picture", type=click.Path(path_type=Path), default=PICTURE, show_default=True, help="Where to draw it.")
def main(*, as_json: bool, picture: Path) -> None:
    """Ask for five hundred runs at once, and draw what becomes of them."""
    raise SystemExit(outcome.main(lambda folder, _seconds: measure(folder, picture), seconds=0, as_json=as_json))


if __name__ == "__main__":
    main()
