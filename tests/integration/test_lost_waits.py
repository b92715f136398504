"""Runs that wait go on, whoever is killed, and at whichever point: also between two things that belong together.

Where no kill hits the point for certain, what had been written up to there is put there by hand: it is all that anybody finds.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from services.executor.runs.claim import fold
from shared.bus import Bus
from shared.envelope import new_id, rfc3339, utc_now
from shared.messages import (
    ConcurrencySlot,
    Message,
    RunRequested,
    RunResumed,
    RunStarted,
    RunSucceeded,
    RunUsage,
    RunWaiting,
    TimerSet,
    Wait,
)
from shared.questions.workflows import FindWorkflow, WorkflowFound
from tests.integration.test_runs import started
from tests.integration.test_waiting import cancel
from tests.support.inside import bus_of, eventually, running
from tests.support.pausing import paused
from tests.support.river import COUNT, Outside, river, sandbox_settings
from tests.support.servers import Place

WORKFLOWS = (
    COUNT
    + b"""
import os
import time

from millrace import runs, sleep, step, wait_for, workflow


@workflow
async def nap(folder: str, seconds: float) -> int:
    first = await step("first", count, folder, "first")
    await sleep(seconds)
    return first


@workflow(concurrency="workflow")
def in_turn(folder: str) -> int:
    return count(folder, "turns")


@workflow
async def parent(folder: str) -> list:
    count(folder, "started")
    while not os.path.exists(f"{folder}/go"):
        time.sleep(0.01)
    child = await runs.astart("child")
    return [await runs.wait(child)]


@workflow
def child() -> int:
    return 7


@workflow
async def asking(folder: str) -> str:
    count(folder, "started")
    while not os.path.exists(f"{folder}/go"):
        time.sleep(0.01)
    return (await wait_for("answer")).data
"""
)


class ByHand:
    """Says what an executor said before it was killed."""

    def __init__(self, bus: Bus, version: str) -> None:
        self._bus = bus
        self._version = version
        self.run = new_id()
        self._sequence = 0

    async def say(self, message: Message) -> Any:
        sealed = self._bus.seal(message, org="default")
        self._sequence = await self._bus.append(sealed, self._sequence)
        return sealed.envelope

    async def requested(self, workflow: str, given: dict[str, Any]) -> None:
        fields: dict[str, Any] = {"run": self.run, "workflow": workflow, "version": self._version, "input": given}
        await self.say(RunRequested(**fields, requested_by="test", timeout=60.0))

    async def started(self, attempt: int = 1, slot: ConcurrencySlot | None = None) -> None:
        await self.say(RunStarted(run=self.run, attempt=attempt, executor="killed", tier="none", slot=slot))


@asynccontextmanager
async def without_executor(place: Place, data: Path) -> AsyncIterator[tuple[Bus, str]]:
    """Deploy with an executor that is gone for the block; yields its rights on the bus, and the workflows' version."""
    async with river(place, data) as outside:
        version = await deploy(outside)
    async with bus_of(place, "executor") as bus:
        yield bus, version


async def deploy(outside: Outside) -> str:
    view = await outside.put_file("workflows.py", WORKFLOWS)
    assert view.problems == []
    found: WorkflowFound = await outside.bus.ask(FindWorkflow(org="default", name="nap"))
    assert found.entry is not None
    return found.entry.version


def slot_of_all() -> ConcurrencySlot:
    return ConcurrencySlot("default/in_turn")


async def slots(place: Place, *statements: str) -> list[str]:
    """Change who has a concurrency slot by hand, and return the runs that have one now."""
    connection = await asyncpg.connect(place.database_url("executor"))
    try:
        async with connection.transaction():
            for statement in statements:
                await connection.execute(statement)
        return [row["run"] for row in await connection.fetch("SELECT run FROM concurrency_slot ORDER BY run")]
    finally:
        await connection.close()


async def no_turns_left(place: Place) -> None:
    async def none() -> bool:
        return not await slots(place)

    await eventually(none)


async def test_an_executor_killed_between_timer_and_waiting_is_replaced_and_the_sleep_ends(
    place: Place, data: Path, shared_folder: Path
) -> None:
    async with without_executor(place, data) as (bus, version):
        hand = ByHand(bus, version)
        await hand.requested("nap", {"folder": str(shared_folder), "seconds": 1.2})
        await hand.started()
        until = rfc3339(utc_now() + timedelta(seconds=1))
        await bus.publish(bus.seal(TimerSet(key=hand.run, owner="executor", at=until), org="default"))
    async with river(place, data) as outside:
        ended = await outside.run(hand.run, "succeeded")
        assert ended.result == 1
        types = await outside.types(hand.run)
        assert types[:3] == ["run.requested", "run.started", "run.started"]
        assert types.count("run.succeeded") == 1


async def test_a_timer_that_fired_while_nobody_was_there_is_made_up_for(place: Place, data: Path, shared_folder: Path) -> None:
    async with without_executor(place, data) as (bus, version):
        hand = ByHand(bus, version)
        await hand.requested("nap", {"folder": str(shared_folder), "seconds": 1.2})
        await hand.started()
        until = rfc3339(utc_now() - timedelta(seconds=1))
        wait = Wait(kind="sleep", name="sleep", ordinal=0, position=1, until=until)
        # Its timer was never set at all: the rows tell.
        await hand.say(RunWaiting(run=hand.run, attempt=1, blocked_on="time", until=until, waits=[wait]))
    async with river(place, data) as outside:
        await outside.run(hand.run, "succeeded")


async def test_a_slot_that_was_taken_for_a_claim_that_never_came_is_used_and_left(
    place: Place, data: Path, shared_folder: Path
) -> None:
    async with without_executor(place, data) as (bus, version):
        hand = ByHand(bus, version)
        await hand.requested("in_turn", {"folder": str(shared_folder)})
        key = slot_of_all().key
        assert await slots(place, f"INSERT INTO concurrency_slot (run, key) VALUES ('{hand.run}', '{key}')") == [hand.run]
    async with river(place, data) as outside:
        await outside.run(hand.run, "succeeded")
        other = await outside.request("in_turn", input={"folder": str(shared_folder)})
        await outside.run(other, "succeeded")
        await no_turns_left(place)


async def test_a_slot_that_was_taken_for_a_run_that_is_cancelled_instead_is_left(
    place: Place, data: Path, shared_folder: Path
) -> None:
    async with without_executor(place, data) as (bus, version):
        hand = ByHand(bus, version)
        await hand.requested("in_turn", {"folder": str(shared_folder)})
        await slots(place, f"INSERT INTO concurrency_slot (run, key) VALUES ('{hand.run}', '{slot_of_all().key}')")
        async with bus_of(place, "gateway") as gateway:
            await cancel(Outside(place, gateway), hand.run)
    async with river(place, data) as outside:
        other = await outside.request("in_turn", input={"folder": str(shared_folder)})
        await outside.run(hand.run, "cancelled")
        await outside.run(other, "succeeded")
        await no_turns_left(place)


@pytest.mark.parametrize("told", [True, False])
async def test_a_turn_that_outlived_its_run_goes_to_the_one_who_waits(
    place: Place, data: Path, shared_folder: Path, told: bool
) -> None:
    slot = slot_of_all()
    async with without_executor(place, data) as (bus, version):
        ended, waiting = ByHand(bus, version), ByHand(bus, version)
        for hand in (ended, waiting):
            await hand.requested("in_turn", {"folder": str(shared_folder)})
        await ended.started(slot=slot)
        await slots(place, f"INSERT INTO concurrency_slot (run, key) VALUES ('{ended.run}', '{slot.key}')")
        await waiting.say(RunWaiting(run=waiting.run, attempt=0, blocked_on="concurrency", slot=slot))
        # Whose end does not name the key is not told of: the rows are searched for those.
        end = RunSucceeded(
            run=ended.run, attempt=1, result=1, duration_ms=1.0, usage=RunUsage(), concurrency_key=slot.key if told else None
        )
        await ended.say(end)
    async with river(place, data) as outside:
        await outside.run(ended.run, "succeeded")
        await outside.run(waiting.run, "succeeded")
        await no_turns_left(place)


async def test_a_run_that_was_given_its_turn_and_never_told_is_told(place: Place, data: Path, shared_folder: Path) -> None:
    async with river(place, data) as outside:
        await deploy(outside)
        key = slot_of_all().key
        await slots(place, f"INSERT INTO concurrency_slot (run, key) VALUES ('somebody', '{key}')")
        run = await outside.request("in_turn", input={"folder": str(shared_folder)})
        assert (await outside.run(run, "waiting")).blocked_on == "concurrency"
        # One who was killed after this, before saying that the run goes on.
        taken = f"INSERT INTO concurrency_slot (run, key) VALUES ('{run}', '{key}')"
        assert await slots(place, "DELETE FROM concurrency_slot WHERE run = 'somebody'", taken) == [run]
        await outside.run(run, "succeeded")
        await no_turns_left(place)


async def test_a_run_that_was_resumed_and_not_yet_acknowledged_goes_on_once(place: Place, data: Path, shared_folder: Path) -> None:
    async with without_executor(place, data) as (bus, version):
        hand = ByHand(bus, version)
        await hand.requested("in_turn", {"folder": str(shared_folder)})
        await hand.say(RunWaiting(run=hand.run, attempt=0, blocked_on="concurrency", slot=slot_of_all()))
        # The follower was killed before it moved its checkpoint: it reads `run.waiting` again.
        await slots(place, f"INSERT INTO concurrency_slot (run, key) VALUES ('{hand.run}', '{slot_of_all().key}')")
        await hand.say(RunResumed(run=hand.run, priority="normal"))
    async with river(place, data) as outside:
        await outside.run(hand.run, "succeeded")
        types = await outside.types(hand.run)
        assert types == ["run.requested", "run.waiting", "run.resumed", "run.started", "run.succeeded"]
        assert (shared_folder / "turns").read_text() == "x"
        await no_turns_left(place)


async def test_the_next_executor_goes_on_with_what_one_that_was_killed_had_waiting(
    place: Place, data: Path, shared_folder: Path
) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as gateway:
        outside = Outside(place, gateway)
        async with executor_process(place, data / "first") as first:
            await eventually(lambda: can_deploy(outside))
            runs = [await outside.request("nap", input={"folder": str(shared_folder), "seconds": 2}) for _ in range(3)]
            for run in runs:
                # On a busy machine the first may have slept enough before the last is seen to sleep.
                await outside.run(run, "waiting", "succeeded")
            os.kill(first.pid, signal.SIGKILL)
            await first.wait()
        async with executor_process(place, data / "second"):
            for run in runs:
                assert (await ended_run(gateway, run)) == "succeeded"
        assert (shared_folder / "first").read_text() == "xxx"


@pytest.mark.parametrize("store", ["broker", "database"])
async def test_what_is_due_while_a_store_is_away_happens_afterwards(
    place: Place, data: Path, shared_folder: Path, store: str
) -> None:
    async with river(place, data) as outside:
        await deploy(outside)
        sleeping = await outside.request("nap", input={"folder": str(shared_folder), "seconds": 1.5})
        # On a busy machine what is to happen in a moment may have happened by the time that it is looked at.
        await outside.run(sleeping, "waiting", "succeeded")
        later = await outside.request("child", run_at=rfc3339(utc_now() + timedelta(seconds=2)))
        await outside.run(later, "delayed", "succeeded")
        async with away(place, store):
            await asyncio.sleep(4)  # the time itself is what happens
        # Asked of the bus: whoever asks the database first finds the connections that were cut.
        assert await ended_run(outside.bus, sleeping) == await ended_run(outside.bus, later) == "succeeded"
        assert (shared_folder / "first").read_text() == "x"


@pytest.mark.parametrize("store", ["broker", "database"])
async def test_a_run_that_starts_another_while_a_store_is_away_waits_for_the_store(
    place: Place, data: Path, shared_folder: Path, store: str
) -> None:
    async with river(place, data) as outside:
        await deploy(outside)
        run = await outside.request("parent", input={"folder": str(shared_folder)})
        await started(shared_folder)
        async with away(place, store):
            (shared_folder / "go").touch()
            await asyncio.sleep(4)  # longer than any one question waits for its answer
        assert await ended_run(outside.bus, run) == "succeeded"
        assert (await outside.run(run, "succeeded")).result == [7]


async def test_a_run_that_begins_to_wait_while_the_broker_is_away_waits_for_it(
    place: Place, data: Path, shared_folder: Path
) -> None:
    async with river(place, data) as outside:
        await deploy(outside)
        run = await outside.request("asking", input={"folder": str(shared_folder)})
        await started(shared_folder)
        async with away(place, "broker"):
            (shared_folder / "go").touch()
            await asyncio.sleep(4)
        await outside.run(run, "waiting")
        await cancel(outside, run)
        await outside.run(run, "cancelled")


@asynccontextmanager
async def away(place: Place, store: str) -> AsyncIterator[None]:
    if store == "database":
        async with place.database_away():
            yield
        return
    async with paused(place.broker_pid):
        yield


@asynccontextmanager
async def executor_process(place: Place, data: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the executor as the process that it is outside of tests."""
    data.mkdir()
    data.chmod(0o711)
    given = place.environment("executor", MILLRACE_DATA=str(data), **sandbox_settings())
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "services", "executor"],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | given,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def can_deploy(outside: Outside) -> bool:
    from shared.errors import Unavailable

    try:
        await deploy(outside)
    except Unavailable:
        return False
    return True


async def ended_run(bus: Bus, run: str) -> str:
    async def ended() -> str | None:
        folded = await fold(bus, run)
        return folded.state.status if folded is not None and folded.state.ended else None

    found = await eventually(ended)
    assert isinstance(found, str)
    return found
