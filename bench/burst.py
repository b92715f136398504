"""A burst: three hundred runs asked for at once, where none were. Draws what waits, what the pool does, and how long each run took.

Each run sleeps for a second, as one that asks another system does. It is measured twice: with the slots fixed to the least, and
with slots that follow the load. The limit is that of the most slots: all runs after each other in as many rows as one
organization has of them, each taking as long as one takes alone, measured before in the same run.
"""

from __future__ import annotations

import asyncio
import json
import math
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
from services.executor.config import SLOTS_LEAST
from services.executor.runs.shares import room
from services.executor.sandbox.machine import Machine

WORKFLOW = b"""
import time

from millrace import workflow


@workflow
def ask_around() -> None:
    time.sleep(1)
"""
RUNS = 300
CALLERS = 32
ALONE = 5
EVERY = 0.05
WITHIN = 120.0
CONSUMER = "executor-runs-normal"
PICTURE = "bench-burst.png"


class Sample(msgspec.Struct, frozen=True):
    """What was seen at a moment, in seconds from the burst."""

    at: float
    queued: int
    pool: dict[str, float]


class Burst(msgspec.Struct, frozen=True):
    """What became of a burst: when each run was asked for, in seconds from it, and how long it waited, and took until its end."""

    requested: list[float]
    waited: list[float]
    taken: list[float]
    samples: list[Sample]
    single: float

    @property
    def ended(self) -> list[float]:
        """When each ended."""
        return [at + one for at, one in zip(self.requested, self.taken, strict=True)]


async def measure(folder: Path, picture: Path) -> Outcome:
    """Measure both, and draw."""
    least = str(SLOTS_LEAST * math.ceil(Machine().cores))
    fixed = await _burst(folder / "fixed", MILLRACE_SLOTS=least)
    following = await _burst(folder / "following", MILLRACE_SLOTS_MIN=least)
    return _outcome(fixed, following, picture)


async def _burst(data: Path, **environment: str) -> Burst:
    async with whole(data, **environment) as stack:
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
    requested = [datetime.fromisoformat(run["requested_at"]).timestamp() - began for run in runs]
    waited = [datetime.fromisoformat(run["started_at"]).timestamp() - began - at for run, at in zip(runs, requested, strict=True)]
    taken = [datetime.fromisoformat(run["finished_at"]).timestamp() - began - at for run, at in zip(runs, requested, strict=True)]
    return Burst(requested, waited, taken, samples, single)


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
                pool["executors_wanted"] = executor["workers"]["desired_replicas"]["default"]
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


def _outcome(fixed: Burst, following: Burst, picture: Path) -> Outcome:
    seconds, before = max(following.ended), max(fixed.ended)
    slots = room(0, round(following.samples[0].pool["slots_max"]))
    ideal = RUNS * following.single / slots
    _draw(picture, fixed, following)
    shown = [sample.pool for sample in following.samples]
    return Outcome(
        name="burst",
        figure=seconds,
        unit=f"s until {RUNS} runs asked for at once had ended",
        limit=ideal,
        ratio=seconds / ideal,
        more={
            "runs": RUNS,
            "slots": slots,
            "fixed_s": before,
            "fixed_slots": room(0, round(fixed.samples[0].pool["slots"])),
            "sooner": before / seconds,
            "alone_ms": following.single * 1000,
            "queue_p50_ms": percentile(following.waited, 50) * 1000,
            "queue_p95_ms": percentile(following.waited, 95) * 1000,
            "fixed_queue_p50_ms": percentile(fixed.waited, 50) * 1000,
            "fixed_queue_p95_ms": percentile(fixed.waited, 95) * 1000,
            "whole_p95_ms": percentile(following.taken, 95) * 1000,
            "most_queued": max(sample.queued for sample in following.samples),
            "most_at_once": [max(sample.pool["going_on"] for sample in one.samples) for one in (fixed, following)],
            "pool_slots": [min(pool["slots"] for pool in shown), max(pool["slots"] for pool in shown)],
            "executors_wanted": [max(sample.pool["executors_wanted"] for sample in one.samples) for one in (fixed, following)],
            "most_cores": max(pool["cores_used"] for pool in shown),
            "picture": str(picture),
        },
    )


def _draw(picture: Path, fixed: Burst, following: Burst) -> None:
    def of(burst: Burst, name: str) -> list[tuple[float, float]]:
        return [(sample.at, float(sample.pool[name])) for sample in burst.samples]

    def queued(burst: Burst) -> list[tuple[float, float]]:
        return [(sample.at, float(sample.queued)) for sample in burst.samples]

    def sorted_by_end(burst: Burst, values: list[float]) -> list[tuple[float, float]]:
        return sorted(zip(burst.ended, values, strict=True))

    ready = [(one.at, one.pool["placed"] + one.pool["blank"]) for one in following.samples]
    panels = [
        Panel(
            "runs that wait for a worker",
            [Curve("slots follow the load", queued(following)), Curve("slots are fixed", queued(fixed))],
        ),
        Panel(
            "slots and children",
            [
                Curve("slots", of(following, "slots")),
                Curve("runs that go on", of(following, "going_on")),
                Curve("runs that go on, fixed", of(fixed, "going_on")),
                Curve("children ready", ready),
            ],
        ),
        Panel("cores in use", [Curve("follow", of(following, "cores_used")), Curve("fixed", of(fixed, "cores_used"))]),
        Panel(
            "seconds that a run had waited until it began, by the moment of its end",
            [
                Curve("slots follow the load", sorted_by_end(following, following.waited)),
                Curve("slots are fixed", sorted_by_end(fixed, fixed.waited)),
            ],
        ),
    ]
    draw(picture, f"{RUNS} runs of a second asked for at once", panels)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one line of JSON last.")
@click.option("--picture", type=click.Path(path_type=Path), default=PICTURE, show_default=True, help="Where to draw it.")
def main(*, as_json: bool, picture: Path) -> None:
    """Ask for three hundred runs at once, twice, and draw what becomes of them."""
    raise SystemExit(outcome.main(lambda folder, _seconds: measure(folder, picture), seconds=0, as_json=as_json))


if __name__ == "__main__":
    main()
