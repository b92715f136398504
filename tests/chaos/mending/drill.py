"""The drill: have runs fail, mend their code, resume all by one command, and kill executors while it works and others go on."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from tests.chaos.drill import Site
from tests.chaos.evidence import settle
from tests.chaos.installation import DrillError
from tests.chaos.mending.evidence import Evidence
from tests.chaos.mending.report import MendingReport, made
from tests.chaos.runs.disturbing import Disturbing
from tests.chaos.runs.replicas import second_of

WORKFLOWS = Path(__file__).with_name("workflows.py")
BROKEN, MENDED = b"IS_MENDED = False", b"IS_MENDED = True"
WEIGHTS = {"kill the first": 1, "kill the second": 1}
IN_TURN = ("kill the first", "kill the second", "kill the first")
# Failed runs are counted so often, in seconds, until all have failed.
COUNTED_EVERY = 0.5
FAIL_WITHIN = 300.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The whole drill: so many `runs` at `rate` a second, a kill `every` so many seconds; the end in seconds too."""

    runs: int
    rate: float
    every: float
    settle: float
    seed: int
    in_turn: bool


async def drilled(site: Site, plan: Plan) -> MendingReport:
    """Carry a plan out and return what came of it. Raises `DrillError`."""
    at = datetime.now(UTC)
    async with second_of("executor", site.installation, site.place) as second:
        await site.deploy(WORKFLOWS)
        began = asyncio.get_running_loop().time()
        failed = await site.post_each(plan.rate, _requests(site, "chaos-order", plan.runs))
        await _all_failed(site, plan.runs)
        site.print(f"{len(failed):,} runs have failed")
        mended = WORKFLOWS.read_bytes().replace(BROKEN, MENDED)
        deployed = await site.call("PUT", f"/api/v1/workspace/files/{WORKFLOWS.name}", data=mended)
        if deployed["problems"]:
            raise DrillError(f"the mended workflows do not load: {deployed['problems'][0]['message']}")

        disturbing = Disturbing(
            site.installation,
            second,
            every=plan.every,
            pause=0,
            seed=plan.seed,
            tell=site.tell,
            weights=WEIGHTS,
            in_turn=IN_TURN,
        )
        async with disturbing.going(in_turn=plan.in_turn):
            told, others = await asyncio.gather(
                _command(site, plan.rate),
                site.post_each(plan.rate, _requests(site, "chaos-other", plan.runs)),
            )
        site.print(f"the command resumed {len(told):,} runs; waiting for every run to end …")
        await site.installation.all_ready(site.session)
        numbers = {answer["id"]: str(int(key.rpartition("-")[2])) for key, answer in failed.items()}
        evidence = Evidence(numbers, {answer["id"] for answer in others.values()})
        await settle(evidence, site.installation.ready(), site.marks, plan.settle)
        return made(
            evidence,
            disturbing.done,
            told=told,
            at=at,
            seed=plan.seed,
            rate=plan.rate,
            seconds=asyncio.get_running_loop().time() - began,
        )


def _requests(site: Site, workflow: str, count: int) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    for number in range(count):
        key = f"{workflow}-{number:05}"
        yield key, key, f"/api/v1/workflows/{workflow}/runs", {"input": {"number": str(number), "file": str(site.marks)}}


async def _all_failed(site: Site, count: int) -> None:
    """Wait until the search finds all failed runs, as the command will."""
    async with asyncio.timeout(FAIL_WITHIN):
        while True:
            found = await site.get("/api/v1/runs?workflow=chaos-order&status=failed&limit=1000")
            if found is not None and len(found["items"]) >= count:
                return
            await asyncio.sleep(COUNTED_EVERY)  # the rows follow in their own time


async def _command(site: Site, rate: float) -> list[dict[str, Any]]:
    """Give the command, and give it again once it has ended: who was resumed is left alone. Returns what it said the first time."""
    said: list[list[dict[str, Any]]] = []
    for _ in range(2):
        ready = site.installation.ready()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "millrace.cli", "runs", "resume", "--output", "json"),
            *("--query", "workflow:chaos-order status:failed", "--version", "latest", "--rate", str(rate)),
            env=os.environ | {"MILLRACE_URL": ready["url"], "MILLRACE_KEY": ready["admin_key"]},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, error = await process.communicate()
        if process.returncode != 0:
            raise DrillError(f"the command exited with {process.returncode}: {error.decode()[-500:] or out.decode()[-500:]}")
        said.append(msgspec.json.decode(out)["items"])
    if again := [one for one in said[1] if one["run"] not in {first["run"] for first in said[0]}]:
        raise DrillError(f"given again, the command started others: {again[:3]}")
    return said[0]
