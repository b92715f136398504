"""Runs that wait: for a time, for another try, for their turn; and what ends them meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from services.executor.runs import newest, resumer
from services.executor.runs.claim import fold
from shared.envelope import new_id, rfc3339, utc_now
from shared.errors import Unavailable
from shared.messages import RunCancelRequested, RunRequested, RunStarted
from tests.integration.test_runs import started
from tests.support.inside import bus_of
from tests.support.river import Outside, river, standing
from tests.support.servers import Place, Servers

WORKFLOWS = b"""
import os
import time

from millrace import workflow


def counted(folder: str) -> int:
    with open(f"{folder}/counted", "a") as file:
        file.write("x")
    return os.path.getsize(f"{folder}/counted")


@workflow(name="third", retries=3, retry_delay=0.05)
def third(folder: str) -> int:
    count = counted(folder)
    if count < 3:
        raise OSError(f"not yet: {count}")
    return count


@workflow(name="never", retries=1, retry_delay=0.05)
def never(folder: str) -> None:
    raise OSError(f"no: {counted(folder)}")


@workflow(name="again-tomorrow", retries=1, retry_delay=1e6, retry_max_delay=1e6)
def again_tomorrow() -> None:
    raise OSError("no")


SERVED = []


@workflow(isolation="workflow")
def shared_process() -> int:
    SERVED.append(None)
    return len(SERVED)


@workflow(name="hurry", queue_timeout=0.5)
def hurry() -> str:
    return "in time"


def hold(folder: str, name: str) -> str:
    with open(f"{folder}/started", "a") as file:
        file.write(name)
    deadline = time.monotonic() + 20
    while not os.path.exists(f"{folder}/go") and time.monotonic() < deadline:
        time.sleep(0.01)
    with open(f"{folder}/ended", "a") as file:
        file.write(name)
    return name


@workflow(concurrency="org")
def one_at_a_time(folder: str, name: str) -> str:
    return hold(folder, name)


@workflow(concurrency="input.name", concurrency_policy="reject")
def only_one(folder: str, name: str) -> str:
    return hold(folder, name)


@workflow(concurrency="workflow", concurrency_policy="cancel_older")
def the_newest(folder: str, name: str) -> str:
    return hold(folder, name)
"""


async def deploy(outside: Outside) -> None:
    view = await outside.put_file("workflows.py", WORKFLOWS)
    assert view.problems == []


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def outside(servers: Servers) -> AsyncIterator[Outside]:
    """Both services with these workflows, for tests that need nothing of their own."""
    async with standing(servers) as made:
        await deploy(made)
        yield made


async def test_a_failed_attempt_is_tried_again_until_one_succeeds(outside: Outside, shared_folder: Path) -> None:
    run = await outside.request("third", input={"folder": str(shared_folder)})
    ended = await outside.run(run, "succeeded")
    assert (ended.result, ended.attempt) == (3, 3)
    failed = ["run.started", "run.waiting", "run.resumed"]
    assert await outside.types(run) == ["run.requested", *failed, *failed, "run.started", "run.succeeded"]


async def test_a_run_that_fails_each_time_fails_with_its_last_error(outside: Outside, shared_folder: Path) -> None:
    run = await outside.request("never", input={"folder": str(shared_folder)})
    ended = await outside.run(run, "failed")
    assert ended.error is not None
    assert (ended.error.message, ended.attempt, ended.reason) == ("no: 2", 2, "error")


async def test_a_run_that_waits_for_its_next_attempt_can_be_cancelled(outside: Outside) -> None:
    run = await outside.request("again-tomorrow")
    waiting = await outside.run(run, "waiting")
    assert waiting.blocked_on == "retry"
    assert waiting.error is None
    await cancel(outside, run)
    await outside.run(run, "cancelled")
    assert (await outside.types(run))[-2:] == ["run.cancel_requested", "run.cancelled"]


async def test_a_delayed_run_begins_at_its_time_and_holds_no_worker_until_then(place: Place, data: Path) -> None:
    async with river(place, data, MILLRACE_SLOTS="1") as outside:
        await deploy(outside)
        at = utc_now() + timedelta(seconds=2)
        later = await outside.request("hurry", run_at=rfc3339(at))
        assert await outside.waited(later) == "time"
        now = await outside.request("hurry")
        assert (await outside.run(now, "succeeded")).result == "in time"
        ended = await outside.run(later, "succeeded")
        assert ended.started_at is not None
        assert ended.started_at >= rfc3339(at)
        assert ended.queue_ms is not None
        # From its time on, and not from its request.
        waited = datetime.fromisoformat(ended.started_at) - at
        assert ended.queue_ms <= waited / timedelta(milliseconds=1) + 1


async def test_a_run_a_year_ahead_waits_and_is_cancelled_like_any(outside: Outside) -> None:
    run = await outside.request("hurry", run_at=rfc3339(utc_now() + timedelta(days=365)))
    assert (await outside.run(run, "delayed")).blocked_on == "time"
    await cancel(outside, run)
    await outside.run(run, "cancelled")


async def test_a_run_that_does_not_begin_in_time_expires(place: Place, data: Path, shared_folder: Path) -> None:
    async with river(place, data, MILLRACE_SLOTS="1") as outside:
        await deploy(outside)
        first = await outside.request("one_at_a_time", input={"folder": str(shared_folder), "name": "a"})
        await started(shared_folder)
        late = await outside.request("hurry", deadline=0.5)
        ended = await outside.run(late, "expired")
        assert ended.reason == "deadline"
        assert ended.attempt == 0
        assert ended.error is not None
        assert "0.5 s" in ended.error.message
        (shared_folder / "go").touch()
        await outside.run(first, "succeeded")
        assert await outside.types(late) == ["run.requested", "run.expired"]


async def test_runs_of_one_key_take_turns_in_the_order_of_their_requests(outside: Outside, shared_folder: Path) -> None:
    runs = []
    for name in "abc":
        runs.append(await outside.request("one_at_a_time", input={"folder": str(shared_folder), "name": name}))
        if name != "a":
            assert (await outside.run(runs[-1], "waiting")).blocked_on == "concurrency"
        else:
            await started(shared_folder)
    assert (shared_folder / "started").read_text() == "a"
    (shared_folder / "go").touch()
    for run in runs:
        await outside.run(run, "succeeded")
    assert (shared_folder / "started").read_text() == (shared_folder / "ended").read_text() == "abc"


async def test_a_run_that_waits_for_its_turn_may_expire_or_be_cancelled(outside: Outside, shared_folder: Path) -> None:
    given = {"folder": str(shared_folder), "name": "a"}
    first = await outside.request("one_at_a_time", input=given)
    await started(shared_folder)
    expiring = await outside.request("one_at_a_time", input=given, deadline=0.2)
    cancelled = await outside.request("one_at_a_time", input=given)
    await outside.run(cancelled, "waiting")
    await cancel(outside, cancelled)
    await outside.run(cancelled, "cancelled")
    await outside.run(expiring, "expired")
    (shared_folder / "go").touch()
    await outside.run(first, "succeeded")


async def test_a_rejected_run_says_whose_turn_it_is(outside: Outside, shared_folder: Path) -> None:
    first = await outside.request("only_one", input={"folder": str(shared_folder), "name": "a"})
    await started(shared_folder)
    second = await outside.run(await outside.request("only_one", input={"folder": str(shared_folder), "name": "a"}), "failed")
    assert second.reason == "limit"
    assert second.error is not None
    assert first in second.error.message
    other = await outside.request("only_one", input={"folder": str(shared_folder), "name": "b"})
    (shared_folder / "go").touch()
    await outside.run(first, "succeeded")
    await outside.run(other, "succeeded")


async def test_a_newer_run_cancels_the_older_ones_of_its_key(outside: Outside, shared_folder: Path) -> None:
    given: dict[str, Any] = {"folder": str(shared_folder), "name": "a"}
    first = await outside.request("the_newest", input=given)
    await started(shared_folder)
    second = await outside.request("the_newest", input=given | {"name": "b"})
    await outside.run(first, "cancelled")
    (shared_folder / "go").touch()
    await outside.run(second, "succeeded")


async def requested_later(outside: Outside, workflow: str, **fields: Any) -> Callable[[], Awaitable[str]]:
    """Ask for a run now whose request reaches the stream only when the result is called."""
    message = RunRequested(
        run=new_id(), workflow=workflow, version=await outside.version(workflow), requested_by="test", timeout=60.0, **fields
    )
    sealed = outside.bus.seal(message, org="default")

    async def publish() -> str:
        await outside.bus.publish(sealed)
        return message.run

    return publish


async def test_a_newer_run_cancels_the_older_ones_although_its_worker_was_interrupted_at_it(
    place: Place, data: Path, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interruptions = [Unavailable("the broker is away")]
    read = newest.read_now

    async def interrupted(*args: Any) -> Any:
        if interruptions:
            raise interruptions.pop()
        return await read(*args)

    monkeypatch.setattr(newest, "read_now", interrupted)
    async with river(place, data) as outside:
        await deploy(outside)
        given: dict[str, Any] = {"folder": str(shared_folder), "name": "a"}
        first = await outside.request("the_newest", input=given)
        await started(shared_folder)
        second = await outside.request("the_newest", input=given | {"name": "b"})
        await outside.run(first, "cancelled")
        assert not interruptions
        (shared_folder / "go").touch()
        await outside.run(second, "succeeded")


async def test_an_older_run_that_comes_later_is_cancelled_by_the_newer_one_that_goes_on(
    outside: Outside, shared_folder: Path
) -> None:
    given: dict[str, Any] = {"folder": str(shared_folder), "name": "a"}
    publish = await requested_later(outside, "the_newest", input=given)
    newer = await outside.request("the_newest", input=given)
    await started(shared_folder)
    older = await publish()
    await outside.run(older, "cancelled")
    (shared_folder / "go").touch()
    await outside.run(newer, "succeeded")


async def test_an_older_run_does_not_take_the_slot_for_which_a_newer_one_waits(
    place: Place, data: Path, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The newer one is not given its slot in between.
    monkeypatch.setattr(resumer, "PAUSE", 3600.0)
    async with river(place, data) as outside:
        await deploy(outside)
        given: dict[str, Any] = {"folder": str(shared_folder), "name": "a"}
        publish = await requested_later(outside, "the_newest", input=given)
        connection = await asyncpg.connect(place.database_url("executor"))
        await connection.execute("INSERT INTO concurrency_slot (run, key) VALUES ('another', 'default/the_newest')")
        newer = await outside.request("the_newest", input=given)
        assert (await outside.run(newer, "waiting")).concurrency_key == "default/the_newest"
        await outside.recorded(newer, "waiting")
        await connection.execute("DELETE FROM concurrency_slot")
        await connection.close()
        older = await publish()
        await outside.run(older, "cancelled")
        (shared_folder / "go").touch()
        await outside.run(newer, "succeeded")


async def cancel(outside: Outside, run: str) -> None:
    folded = await fold(outside.bus, run)
    assert folded is not None
    message = RunCancelRequested(run=run, requested_by="test")
    await outside.bus.append(outside.bus.seal(message, org="default"), folded.state.last_seq)


async def lost_claims(place: Place, outside: Outside, run: str, count: int) -> None:
    """Have so many workers claim a run and never be heard of again."""
    async with bus_of(place, "executor") as bus:
        for attempt in range(1, count + 1):
            folded = await fold(outside.bus, run)
            assert folded is not None
            message = RunStarted(run=run, attempt=attempt, executor="lost", tier="none")
            await bus.append(bus.seal(message, org="default"), folded.state.last_seq)


@pytest.mark.parametrize(("lost", "status"), [(2, "succeeded"), (3, "crashed")])
async def test_a_run_that_took_three_workers_with_it_is_poison(place: Place, data: Path, lost: int, status: str) -> None:
    async with river(place, data) as outside:
        await deploy(outside)
        version = await outside.version("hurry")
    async with bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        run = await outside.request("hurry", version=version)
        await lost_claims(place, outside, run, lost)
    async with river(place, data) as outside:
        ended = await outside.run(run, status)
        assert ended.attempt == (3 if lost == 2 else lost)
        if lost == 3:
            assert ended.reason == "poison"
            assert ended.error is not None
            assert "3 attempts in a row" in ended.error.message


async def test_a_worker_that_stops_gives_its_run_back_at_once_and_unharmed(place: Place, data: Path, shared_folder: Path) -> None:
    async with river(place, data) as outside:
        await deploy(outside)
        given = {"folder": str(shared_folder), "name": "a"}
        run = await outside.request("only_one", input=given)
        await started(shared_folder)
    async with river(place, data) as outside:
        (shared_folder / "go").touch()
        ended = await outside.run(run, "succeeded")
        assert ended.attempt == 2
        types = await outside.types(run)
        assert types == ["run.requested", "run.started", "run.resumed", "run.started", "run.succeeded"]
        folded = await fold(outside.bus, run)
        assert folded is not None
        assert (folded.state.lost, [one.status for one in folded.state.attempts]) == (0, ["released", "succeeded"])


async def test_a_run_shows_whether_its_process_was_its_own(outside: Outside) -> None:
    shared = await outside.run(await outside.request("shared_process"), "succeeded")
    own = await outside.run(await outside.request("hurry"), "succeeded")
    assert (shared.sandbox or {})["isolation"] == "workflow"
    assert (own.sandbox or {})["isolation"] == "run"
    again = await outside.run(await outside.request("shared_process"), "succeeded")
    assert (shared.result, again.result) == (1, 2)
