"""What one organization's runs can take of another's: the slots are shared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from services.executor.runs import supervisor
from shared.envelope import new_id
from shared.messages import RunRequested
from shared.questions.runs import GetRun, RunView
from shared.queued import RunQueue
from tests.integration.test_waiting import cancel
from tests.support.inside import bus_of, eventually, running
from tests.support.river import Outside, sandbox_settings
from tests.support.servers import Place

# Of these one organization gets eight.
SLOTS = "12"
WORKFLOWS = b"""
import os
import time

from millrace import workflow


@workflow
def hog(folder: str) -> str:
    while not os.path.exists(f"{folder}/go"):
        time.sleep(0.05)
    return "at last"


@workflow
def short() -> str:
    time.sleep(0.1)
    return "done"
"""


class Stack:
    """The services, and what organizations ask of them."""

    def __init__(self, outside: Outside, runtime: Any, version: str) -> None:
        self.outside = outside
        self._runtime = runtime
        self._version = version

    def shares(self) -> dict[str, Any]:
        shares: dict[str, Any] = self._runtime.health.document()["shares"]
        return shares

    async def ask(self, org: str, workflow: str, count: int = 1, **fields: Any) -> list[str]:
        """Ask for runs, one after the other; returns their ids."""
        asked = [new_id() for _ in range(count)]
        bus = self.outside.bus
        given: dict[str, Any] = {"input": {}, "requested_by": "test", "timeout": 600.0, **fields}
        for at in range(0, count, 20):
            requests = [RunRequested(run=run, workflow=workflow, version=self._version, **given) for run in asked[at : at + 20]]
            await asyncio.gather(*(bus.publish(bus.seal(request, org=org)) for request in requests))
        return asked

    async def view(self, org: str, run: str) -> RunView:
        view: RunView = await self.outside.bus.ask(GetRun(org=org, id=run))
        return view

    async def reached(self, org: str, run: str, status: str, within: float = 60.0) -> RunView:
        async def there() -> RunView | None:
            view = await self.view(org, run)
            return view if view.status == status else None

        view = await eventually(there, within=within)
        assert isinstance(view, RunView)
        return view

    async def going_on(self, org: str, count: int) -> None:
        async def there() -> bool:
            return bool(self.shares()["running"].get(org) == count)

        await eventually(there)

    async def parked(self, org: str, count: int) -> None:
        async def there() -> bool:
            return bool(self.shares()["parked"].get(org, 0) >= count)

        await eventually(there)

    async def each_ran_once(self, runs: list[str]) -> None:
        for run in runs:
            types = await self.outside.types(run)
            assert (types[0], types.count("run.started"), types[-1]) == ("run.requested", 1, "run.succeeded"), types


@asynccontextmanager
async def stack(place: Place, data: Path) -> AsyncIterator[Stack]:
    settings = {"MILLRACE_DATA": str(data / "executor"), "MILLRACE_SLOTS": SLOTS, **sandbox_settings()}
    async with (
        running(place, "executor", **settings) as runtime,
        running(place, "events"),
        bus_of(place, "gateway") as bus,
    ):
        outside = Outside(place, bus)
        await outside.put_file("workflows.py", WORKFLOWS)
        yield Stack(outside, runtime, await outside.version("hog"))


async def test_runs_that_hang_stop_no_other_organizations_runs(place: Place, data: Path, shared_folder: Path) -> None:
    async with stack(place, data) as made:
        hogs = await made.ask("evil", "hog", 40, input={"folder": str(shared_folder)})
        await made.going_on("evil", 8)
        for _ in range(5):
            [run] = await made.ask("good", "short")
            await made.reached("good", run, "succeeded")
        assert made.shares()["running"]["evil"] == 8
        await made.parked("evil", 1)
        shown = await made.view("evil", hogs[30])
        assert (shown.status, shown.blocked_on) in {("waiting", "worker"), ("queued", "worker")}
        (shared_folder / "go").touch()
        for run in hogs:
            await made.reached("evil", run, "succeeded")
        await made.each_ran_once(hogs)


async def test_a_backlog_does_not_delay_anothers_run_by_its_length_and_goes_on_in_order(place: Place, data: Path) -> None:
    async with stack(place, data) as made:
        backlog = await made.ask("busy", "short", 300)
        await made.going_on("busy", 8)
        [run] = await made.ask("good", "short")
        good = await made.reached("good", run, "succeeded")
        for one in backlog:
            await made.reached("busy", one, "succeeded", within=120)
        await made.each_ran_once(backlog)
        began = [(await made.view("busy", one)).started_at or "" for one in backlog]
        assert good.started_at is not None
        assert sum(one > good.started_at for one in began) > 40  # of 300; a busy machine asks for it late
        assert "run.waiting" in {said for one in backlog for said in await made.outside.types(one)}
        # Those asked for first, first, but for the end of the backlog, which comes by before those that are parked are back.
        pairs = [(a, b) for at, a in enumerate(began) for b in began[at + 1 :]]
        assert sum(a > b for a, b in pairs) < len(pairs) / 4


async def test_an_organization_that_is_alone_has_nothing_parked(place: Place, data: Path) -> None:
    async with stack(place, data) as made:
        backlog = await made.ask("busy", "short", 60)
        for one in backlog:
            await made.reached("busy", one, "succeeded")
        for one in backlog:
            assert await made.outside.types(one) == ["run.requested", "run.started", "run.succeeded"]


async def test_parked_runs_go_on_after_the_executor_that_parked_them_is_gone(
    place: Place, data: Path, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PARKED", 3.0)
    async with stack(place, data) as made:
        hogs = await made.ask("evil", "hog", 20, input={"folder": str(shared_folder)})
        await made.going_on("evil", 8)
        [run] = await made.ask("good", "short")
        await made.reached("good", run, "succeeded")
        await made.parked("evil", 4)
    (shared_folder / "go").touch()
    async with stack(place, data) as made:
        for run in hogs:
            await made.reached("evil", run, "succeeded")


async def test_parked_runs_count_as_queued_whether_the_executor_answers_or_not(
    place: Place, data: Path, shared_folder: Path
) -> None:
    async with bus_of(place, "gateway") as bus:
        queue = RunQueue(bus.client)
        async with stack(place, data) as made:
            await made.ask("evil", "hog", 20, input={"folder": str(shared_folder)})
            await made.going_on("evil", 8)
            [run] = await made.ask("good", "short")
            await made.reached("good", run, "succeeded")
            await made.parked("evil", 4)

            async def counted() -> bool:
                return await queue.count() >= 4

            await eventually(counted)
        assert await queue.count() >= 4


async def test_a_parked_run_is_cancelled_and_expires_like_any_that_has_not_begun(
    place: Place, data: Path, shared_folder: Path
) -> None:
    async with stack(place, data) as made:
        given: dict[str, Any] = {"input": {"folder": str(shared_folder)}}
        first = await made.ask("default", "hog", 12, **given)
        await made.going_on("default", 8)
        [unwanted] = await made.ask("default", "hog", **given)
        [late] = await made.ask("default", "hog", deadline=15.0, **given)
        [run] = await made.ask("good", "short")
        await made.reached("good", run, "succeeded")
        for one in (unwanted, late):
            assert (await made.reached("default", one, "waiting")).blocked_on == "worker"
        await cancel(made.outside, unwanted)
        await made.reached("default", unwanted, "cancelled")
        expired = await made.reached("default", late, "expired")
        assert expired.error is not None
        assert "still waited for worker" in expired.error.message
        (shared_folder / "go").touch()
        for one in first:
            await made.reached("default", one, "succeeded")
        await made.each_ran_once(first)
