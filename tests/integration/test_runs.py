"""What becomes of a run when its author or its executor misbehaves."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from services.executor.runs.claim import fold
from shared.messages import RunCancelRequested, RunStarted, RunSucceeded, RunUsage
from shared.questions.runs import ListLines
from tests.support.inside import eventually
from tests.support.river import Outside, river, standing
from tests.support.servers import Place, Servers

WORKFLOWS = b"""
import os
import time

from millrace import log, runs, step, workflow


@workflow(name="hold")
def hold(folder: str) -> str:
    with open(f"{folder}/started", "a") as file:
        file.write("x")
    deadline = time.monotonic() + 20
    while not os.path.exists(f"{folder}/go") and time.monotonic() < deadline:
        time.sleep(0.01)
    return "done"


@workflow(name="fail")
def fail() -> None:
    raise LookupError("no such ticket")


@workflow(name="leave")
def leave() -> None:
    os._exit(7)


@workflow(name="large")
def large() -> str:
    return "x" * 300_000


@workflow(name="huge")
def huge() -> str:
    return "x" * (65 << 20)


@workflow(name="parent")
async def parent() -> dict:
    return await runs.call("large")


@workflow(name="steps")
async def steps(folder: str) -> int:
    one = await step("one", count, folder)
    two = await step("one", count, folder)
    return one + two


def count(folder: str) -> int:
    with open(f"{folder}/counted", "a") as file:
        file.write("x")
    return os.path.getsize(f"{folder}/counted")


@workflow(name="talk")
def talk() -> None:
    log.info("said", answer=42)
    print("printed")
    print("\\udcff\\x00 odd".encode("utf-8", "surrogateescape").decode("latin-1"))
"""


async def started(folder: Path) -> None:
    async def there() -> bool:
        return (folder / "started").exists()

    await eventually(there)


async def deploy(outside: Outside) -> None:
    view = await outside.put_file("workflows.py", WORKFLOWS)
    assert view.problems == []


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def outside(servers: Servers) -> AsyncIterator[Outside]:
    """Both services with these workflows, for tests that need nothing of their own."""
    async with standing(servers) as made:
        await deploy(made)
        yield made


async def test_each_way_to_end_has_its_status_and_reason(outside: Outside) -> None:
    runs = {name: await outside.request(name) for name in ("fail", "leave", "huge")}
    failed = await outside.run(runs["fail"], "failed")
    assert failed.reason == "error"
    assert failed.error is not None
    assert (failed.error.type, failed.error.message) == ("LookupError", "no such ticket")
    assert "workflows.py" in failed.error.traceback
    crashed = await outside.run(runs["leave"], "crashed")
    assert crashed.error is not None
    limited = await outside.run(runs["huge"], "failed")
    assert limited.reason == "limit"
    assert limited.error is not None
    assert str((65 << 20) + 2) in limited.error.message
    assert str(64 << 20) in limited.error.message


async def test_a_large_result_is_kept_by_reference_and_its_parent_is_told_where(outside: Outside) -> None:
    parent = await outside.run(await outside.request("parent"), "succeeded")
    assert (parent.result_ref, parent.result_bytes) == (None, None)
    assert parent.result["bytes"] == 300_002
    large = await outside.run(await outside.request("large"), "succeeded")
    assert (large.result, large.result_ref, large.result_bytes) == (None, parent.result["$ref"], 300_002)
    assert large.result_ref == hashlib.sha256(b'"' + b"x" * 300_000 + b'"').hexdigest()


async def test_an_attempt_over_its_time_is_ended(outside: Outside, shared_folder: Path) -> None:
    run = await outside.request("hold", input={"folder": str(shared_folder)}, timeout=0.5)
    ended = await outside.run(run, "timed_out")
    assert ended.reason == "timeout"
    assert await outside.types(run) == ["run.requested", "run.started", "run.timed_out"]


async def test_a_cancelled_run_stops_and_says_so_once(outside: Outside, shared_folder: Path) -> None:
    run = await outside.request("hold", input={"folder": str(shared_folder)})
    await started(shared_folder)
    await cancel(outside, run)
    await outside.run(run, "cancelled")
    assert await outside.types(run) == ["run.requested", "run.started", "run.cancel_requested", "run.cancelled"]


async def test_a_cancellation_before_the_claim_wins(place: Place, data: Path, shared_folder: Path) -> None:
    async with river(place, data, MILLRACE_SLOTS="1") as outside:
        await deploy(outside)
        first = await outside.request("hold", input={"folder": str(shared_folder)})
        await started(shared_folder)
        second = await outside.request("hold", input={"folder": str(shared_folder)})
        await cancel(outside, second)
        (shared_folder / "go").touch()
        await outside.run(first, "succeeded")
        await outside.run(second, "cancelled")
        assert await outside.types(second) == ["run.requested", "run.cancel_requested", "run.cancelled"]


async def cancel(outside: Outside, run: str) -> None:
    folded = await fold(outside.bus, run)
    assert folded is not None
    message = RunCancelRequested(run=run, requested_by="test")
    await outside.bus.append(outside.bus.seal(message, org="default"), folded.state.last_seq)


async def test_a_claim_that_was_superseded_writes_nothing_more(place: Place, data: Path, shared_folder: Path) -> None:
    async with river(place, data) as outside:
        await deploy(outside)
        run = await outside.request("hold", input={"folder": str(shared_folder)})
        await started(shared_folder)
        other = await newer_claim(place, outside, run)
        (shared_folder / "go").touch()
        await other()
        assert await outside.types(run) == ["run.requested", "run.started", "run.started", "run.succeeded"]
        view = await outside.run(run, "succeeded")
        assert (view.attempt, view.result) == (2, "the other's")


async def newer_claim(place: Place, outside: Outside, run: str):
    from tests.support.inside import bus_of

    folded = await fold(outside.bus, run)
    assert folded is not None
    context = bus_of(place, "executor")
    bus = await context.__aenter__()
    claim = bus.seal(RunStarted(run=run, attempt=2, executor="other", tier="none"), org="default")
    sequence = await bus.append(claim, folded.state.last_seq)

    async def end() -> None:
        # The first executor's end conflicts, is folded and given up; only then does the other say its own.
        await asyncio.sleep(0.5)
        done = RunSucceeded(run=run, attempt=2, result="the other's", duration_ms=1.0, usage=RunUsage())
        await bus.append(bus.seal(done, org="default", cause=claim.envelope), sequence)
        await context.__aexit__(None, None, None)

    return end


async def test_a_redelivered_run_that_has_ended_is_not_run_again(place: Place, data: Path, shared_folder: Path) -> None:
    async with river(place, data) as outside:
        await deploy(outside)
        run = await outside.request("steps", input={"folder": str(shared_folder)})
        assert (await outside.run(run, "succeeded")).result == 3
        before = await outside.types(run)
    # A second executor that starts with the same durable finds nothing to do.
    async with river(place, data) as outside:
        again = await outside.request("steps", input={"folder": str(shared_folder)})
        await outside.run(again, "succeeded")
        assert await outside.types(run) == before
        assert before.count("run.step_completed") == 2


async def test_the_lines_of_a_run_are_kept_in_order(outside: Outside) -> None:
    run = await outside.request("talk")
    await outside.run(run, "succeeded")

    async def there() -> list[tuple[str, str]]:
        answer = await outside.bus.ask(ListLines(org="default", id=run))
        return [(item.line.stream, item.line.message) for item in answer.items if len(answer.items) == 3]

    lines = await eventually(there)
    assert isinstance(lines, list)
    # What is logged and what is printed come by two ways; each keeps its order.
    assert [message for stream, message in lines if stream == "log"] == ["said"]
    assert next(message for stream, message in lines if stream == "stdout") == "printed"
