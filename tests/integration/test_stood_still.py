"""An executor that stood still, and whose run another has by now, lets nothing go on in its name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.executor.runs import claim, run_state
from services.executor.runs.claim import LEASE, AlreadyEnded, Claim, Fenced, fold
from services.executor.sandbox.children import Children
from services.executor.sandbox.interface import Job
from shared import aggregate
from shared.bus import Bus
from shared.envelope import new_id
from shared.messages import RunRequested, RunStarted, RunStepCompleted, RunSucceeded, RunUsage
from tests.support.inside import bus_of
from tests.support.river import river
from tests.support.servers import Place


@pytest.fixture
async def bus(place: Place) -> AsyncIterator[Bus]:
    """An executor's rights."""
    async with bus_of(place, "executor") as given:
        yield given


async def claimed(bus: Bus, *, ago: float = 0.0) -> Claim:
    """Return a hold on a new run, of which it is known since so many seconds ago."""
    run = new_id()
    request = bus.seal(RunRequested(run=run, workflow="w", version="v", requested_by="x", timeout=60.0), org="default")
    first = await bus.append(request, 0)
    state = run_state.evolve(None, request.envelope, request.message, first)
    assert state is not None
    started = bus.seal(RunStarted(run=run, attempt=1, executor="one", tier="none"), org="default", cause=request.envelope)
    sequence = await bus.append(started, first)
    return Claim(bus, state, started.envelope, started.message, sequence, asyncio.get_running_loop().time() - ago)


async def taken_by_another(bus: Bus, mine: Claim) -> int:
    folded = await fold(bus, mine.run)
    assert folded is not None
    other = RunStarted(run=mine.run, attempt=2, executor="two", tier="none")
    return await bus.append(bus.seal(other, org="default"), folded.state.last_seq)


def done(mine: Claim, name: str = "one") -> RunStepCompleted:
    return RunStepCompleted(run=mine.run, attempt=1, name=name, ordinal=0, result=1)


async def test_a_claim_of_a_moment_ago_is_sure_without_asking(bus: Bus) -> None:
    mine = await claimed(bus)
    await taken_by_another(bus, mine)
    await mine.check_lease()  # which within this time cannot be, but is not looked for


async def test_one_who_wakes_up_finds_out_that_the_run_is_somebody_else_s(bus: Bus) -> None:
    mine = await claimed(bus, ago=LEASE + 1)
    await mine.check_lease()
    await mine.check_lease()
    late = await claimed(bus, ago=LEASE + 1)
    sequence = await taken_by_another(bus, late)
    with pytest.raises(Fenced):
        await late.check_lease()
    end = RunSucceeded(run=late.run, attempt=2, result=1, duration_ms=1.0, usage=RunUsage())
    await bus.append(bus.seal(end, org="default"), sequence)
    with pytest.raises(AlreadyEnded):
        await late.check_lease()


async def test_a_step_whose_record_is_found_to_be_there_already_lets_the_next_one_begin_only_while_the_run_is_ours(
    bus: Bus,
) -> None:
    mine = await claimed(bus)
    await mine.step(done(mine))
    await mine.step(done(mine))  # the answer to the first was lost
    await taken_by_another(bus, mine)
    with pytest.raises(Fenced):
        await mine.step(done(mine))
    types = [stored.envelope.type async for stored in aggregate.history(bus.client, "run", mine.run)]
    assert types == ["run.requested", "run.started", "run.step_completed", "run.started"]


WORKFLOWS = """
from pathlib import Path

from millrace import step, workflow


def marked(file):
    Path(file).write_text("x")


@workflow
def alone(file: str):
    step.sync("one", marked, file)


@workflow(isolation="workflow")
def shared(file: str):
    step.sync("one", marked, file)
"""


@pytest.mark.parametrize("workflow", ["alone", "shared"])
async def test_a_run_that_another_took_while_its_child_was_awaited_begins_nothing(
    place: Place, data: Path, bus: Bus, shared_folder: Path, monkeypatch: pytest.MonkeyPatch, workflow: str
) -> None:
    taken, ran = Children._taken, Children.run
    raised: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def late(self: Children, place: Any, job: Job | None) -> Any:
        found = await taken(self, place, job)
        if not raised.done() and runs:
            folded = await fold(bus, runs[0])
            assert folded is not None
            other = RunStarted(run=runs[0], attempt=2, executor="two", tier="none")
            await bus.append(bus.seal(other, org="default"), folded.state.last_seq)
        return found

    async def run(self: Children, *args: Any, **given: Any) -> Any:
        try:
            return await ran(self, *args, **given)
        except Exception as error:
            raised.set_result(error)
            raise

    runs: list[str] = []
    async with river(place, data) as outside:
        await outside.put_file("workflows/two.py", WORKFLOWS.encode())
        version = await outside.version(workflow)
        monkeypatch.setattr(Children, "_taken", late)
        monkeypatch.setattr(Children, "run", run)
        monkeypatch.setattr(claim, "LEASE", -1.0)  # as if this process had stood still
        file = shared_folder / "mark"
        request = RunRequested(
            run=new_id(), workflow=workflow, version=version, input={"file": str(file)}, requested_by="test", timeout=60.0
        )
        runs.append(request.run)
        await outside.bus.publish(outside.bus.seal(request, org="default"))
        assert isinstance(await asyncio.wait_for(raised, 60), Fenced)
    assert not file.exists()
    types = [stored.envelope.type async for stored in aggregate.history(bus.client, "run", request.run)]
    assert types == ["run.requested", "run.started", "run.started"]
