"""The slots of an executor follow the load, and one that stops takes no run along."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from services.executor import sizing
from services.executor.runs import scaling
from services.executor.sandbox.machine import Machine
from tests.support.inside import bus_of, eventually, running
from tests.support.river import Outside, sandbox_settings
from tests.support.servers import Place

WORKFLOWS = b"""
import os
import time

from millrace import workflow


@workflow
def hold(folder: str, name: str) -> str:
    open(f"{folder}/{name}", "x").close()
    while not os.path.exists(f"{folder}/go"):
        time.sleep(0.05)
    return name
"""


async def at_hand(folder: Path, count: int) -> None:
    async def begun() -> bool:
        return len(list(folder.glob("run-*"))) >= count

    await eventually(begun)


async def test_slots_grow_while_runs_wait_and_shrink_when_they_are_over(
    place: Place, data: Path, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other tests use the cores of this machine, for which slots would not grow.
    monkeypatch.setattr(Machine, "busy", lambda _: 0.2)
    monkeypatch.setattr(sizing, "QUIET", 3.0)
    monkeypatch.setattr(scaling, "IDLE", 0.5)
    settings = {
        "MILLRACE_DATA": str(data / "executor"),
        "MILLRACE_SLOTS_MIN": "2",
        "MILLRACE_SLOTS_MAX": "12",
        **sandbox_settings(),
    }
    async with running(place, "executor", **settings) as runtime, bus_of(place, "gateway") as bus:

        def shown(fact: str) -> dict[str, Any]:
            found: dict[str, Any] = runtime.health.document()[fact]
            return found

        outside = Outside(place, bus)
        assert (await outside.put_file("workflows.py", WORKFLOWS)).problems == []
        assert (shown("pool")["slots"], shown("pool")["slots_max"]) == (2, 12)
        runs = [await outside.request("hold", input={"folder": str(shared_folder), "name": f"run-{n}"}) for n in range(12)]
        # Of twelve slots one organization gets eight.
        await at_hand(shared_folder, 8)
        assert shown("pool")["slots"] == 12

        async def told() -> bool:
            return bool(shown("workers")["in_work"] == {"default": 12})

        await eventually(told)
        assert shown("workers")["desired_replicas"]["default"] >= 1
        (shared_folder / "go").touch()
        for run in runs:
            await outside.run(run, "succeeded")

        async def shrunk() -> bool:
            return (shown("pool")["slots"], shown("workers")["in_work"]) == (2, {"default": 0})

        await eventually(shrunk)
        assert shown("pool")["changes"] >= 4


async def test_an_executor_that_stops_lets_its_runs_end_while_another_takes_what_comes(
    place: Place, data: Path, shared_folder: Path
) -> None:
    # Of its twelve slots one organization gets eight: four runs wait in place.
    first = {"MILLRACE_DATA": str(data / "first"), "MILLRACE_DRAIN": "120", "MILLRACE_SLOTS": "12", **sandbox_settings()}
    second = {"MILLRACE_DATA": str(data / "second"), "MILLRACE_SLOTS": "24", **sandbox_settings()}
    async with bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        leaving = asyncio.Event()

        async def asked(numbers: range) -> list[str]:
            folder = str(shared_folder)
            return [await outside.request("hold", input={"folder": folder, "name": f"run-{n}"}) for n in numbers]

        async def removed() -> list[str]:
            async with running(place, "executor", **first) as runtime:

                async def in_place() -> bool:
                    return bool(runtime.health.document()["shares"]["in_place"] == {"default": 4})

                assert (await outside.put_file("workflows.py", WORKFLOWS)).problems == []
                held = await asked(range(12))
                await at_hand(shared_folder, 8)
                await eventually(in_place)
                *others, drain = runtime.leaving
                for one in others:
                    await one()
                going = asyncio.create_task(drain())
                leaving.set()
                await going
                return held

        removing = asyncio.create_task(removed())
        await asyncio.wait([removing, leave := asyncio.create_task(leaving.wait())], return_when=asyncio.FIRST_COMPLETED)
        assert leave.done(), await removing
        async with running(place, "executor", **second):
            runs = await asked(range(12, 18))
            # Those that waited in place, and those that came since.
            await at_hand(shared_folder, 18)
            (shared_folder / "go").touch()
            for run in [*await removing, *runs]:
                assert (await outside.run(run, "succeeded")).attempt == 1
                assert await outside.types(run) == ["run.requested", "run.started", "run.succeeded"]
