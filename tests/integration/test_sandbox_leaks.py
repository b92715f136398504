"""Hundreds of runs of every kind of end leave nothing; `bench/leaks.py` is the same with ten thousand."""

import asyncio
import os
from pathlib import Path

import pytest

from bench.leaks import WAYS, measure
from services.executor.sandbox.interface import Outcome
from tests.support.sandbox import UID, Recorded, children_of, reachable_interpreter, started_bench, value

pytestmark = pytest.mark.skipif(UID is not None and reachable_interpreter() is None, reason="no interpreter for the sandbox's user")


async def test_runs_of_every_kind_of_end_leave_no_process_descriptor_slot_group_or_file(data: Path) -> None:
    found = (await measure(data, 0, runs=25 * len(WAYS))).more
    assert not any(found["left_while_warm"].values()), found
    assert not any(found["left_when_closed"].values()), found
    assert {end.partition(":")[0] for end in found["ends"]} == {"well", *WAYS}
    assert found["ends"]["well: succeeded/None"] == 24 * len(WAYS)


async def test_hundred_runs_leave_nothing_behind() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors(), children_of(os.getpid())
    async with started_bench(size=2) as bench:
        job = bench.job("import tempfile\n@workflow\ndef main(): return tempfile.mkdtemp()")
        gate = asyncio.Semaphore(4)

        async def one() -> Outcome:
            async with gate:
                return await bench.children.run(job, Recorded())

        outcomes = await asyncio.gather(*(one() for _ in range(100)))
        assert {outcome.status for outcome in outcomes} == {"succeeded"}
    assert not any(Path(str(value(outcome))).exists() for outcome in outcomes)
    assert (descriptors(), children_of(os.getpid())) == before
