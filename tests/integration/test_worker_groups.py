"""Runs of a worker group are carried out by the executors that serve it, and wait visibly where none does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.executor.runs import groups
from shared import aggregate
from shared.messages import RunResumed
from shared.questions.runs import AttemptList, GetRun, ListAttempts, ListRuns, RunView
from shared.queued import RunQueue
from tests.support.inside import bus_of, eventually, running
from tests.support.river import Outside, sandbox_settings
from tests.support.servers import Place

WORKFLOWS = """
from millrace import runs, wait_for, workflow


@workflow(group="{group}")
async def heavy() -> str:
    return (await wait_for("go", timeout=600)).data


@workflow
def light() -> str:
    return runs.start("heavy", {{}})
"""


async def test_a_group_waits_for_its_executor_and_keeps_to_it(place: Place, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "EVERY", 0.5)
    monkeypatch.setattr(groups, "SILENT", 3.0)
    ordinary = {"MILLRACE_DATA": str(data / "ordinary"), **sandbox_settings()}
    special = {"MILLRACE_DATA": str(data / "special"), "MILLRACE_WORKER_GROUPS": "gpu", **sandbox_settings()}
    async with running(place, "executor", **ordinary) as runtime, bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)

        async def view(run: str) -> RunView:
            found: RunView = await bus.ask(GetRun(org="default", id=run))
            return found

        async def executors(run: str) -> set[str]:
            found: AttemptList = await bus.ask(ListAttempts(org="default", id=run))
            return {attempt.executor for attempt in found.items}

        def shown() -> dict[str, Any]:
            found: dict[str, Any] = runtime.health.document()["groups"]
            return found

        async def ended(run: str) -> str:
            return str((await outside.run(run, "succeeded")).result)

        async def unserved() -> bool:
            return bool(shown()["unserved"] == {"gpu": 1})

        async def told() -> bool:
            return (await view(heavy)).reason is not None

        assert (await outside.put_file("workflows.py", WORKFLOWS.format(group="gpu").encode())).problems == []
        light = await outside.request("light")
        heavy = await ended(light)
        await eventually(told)
        seen = await view(heavy)
        assert (seen.status, seen.blocked_on, seen.group) == ("queued", "worker", "gpu")
        assert seen.reason == "no executor serves the worker group 'gpu'"
        await eventually(unserved)
        assert shown()["executors"] == {"default": 1}
        assert await RunQueue(bus.client).count() == 1, "it is among those that press back"
        [listed] = (await bus.ask(ListRuns(org="default", id=heavy))).items
        assert listed.reason == seen.reason

        # Another group from now on, for those that are asked for from now on.
        assert (await outside.put_file("workflows.py", WORKFLOWS.format(group="tpu").encode())).problems == []
        later = await ended(await outside.request("light"))
        async with running(place, "executor", **special):
            await outside.run(heavy, "waiting")
            assert (await view(later)).group == "tpu"
            await outside.signal(heavy, "go", "gone")
            assert await ended(heavy) == "gone"
            history = [stored.message() async for stored in aggregate.history(bus.client, "run", heavy)]
            assert [one.group for one in history if isinstance(one, RunResumed)] == ["gpu"]
            own = await executors(heavy)
            assert len(own) == 1
            # Nothing else comes to that executor.
            assert own.isdisjoint(await executors(light))
            assert own.isdisjoint(await executors(await outside.request("light")))
            assert (await view(later)).status == "queued"
            assert shown()["executors"] == {"default": 1, "gpu": 1}

        async def gone() -> bool:
            return bool(shown()["executors"] == {"default": 1})

        await eventually(gone)
