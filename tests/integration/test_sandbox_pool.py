"""The pool of real children: who gets which child, and what becomes of all of them, whatever the runs do."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.executor.sandbox.jail import Job
from tests.support.sandbox import TIERS, UID, Bench, Recorded, reachable_interpreter, started_bench, value

pytestmark = pytest.mark.skipif(UID is not None and reachable_interpreter() is None, reason="no interpreter for the sandbox's user")


@pytest_asyncio.fixture(params=[tier for tier in TIERS if tier != "none"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with started_bench(tiers=(request.param,), size=2, most=6) as made:
        yield made


async def test_no_job_ever_runs_in_a_child_that_was_placed_for_another_bundle(bench: Bench) -> None:
    jobs = [bench.job(f"@workflow\ndef main(): return {number}") for number in range(6)]

    async def ask(number: int, job: Job) -> None:
        for _ in range(60):
            assert value(await bench.children.run(job, Recorded())) == number

    await asyncio.gather(*(ask(number, job) for number, job in enumerate(jobs)))
