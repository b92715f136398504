"""The options of a form are those of one run, whoever is killed while it goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest_asyncio

from tests.support.client import Client
from tests.support.inside import eventually
from tests.support.places import open_folder
from tests.support.stack import Up, running_up

PROVIDER = b"""
import time

from millrace import data_provider


@data_provider(ttl=3600, timeout=300)
def slow(seconds: float) -> list:
    time.sleep(seconds)
    return ["a", "b"]
"""
OPTIONS = '/api/v1/data-providers/slow?wait=60&input={"seconds":8}'
READERS = 50


@pytest_asyncio.fixture
async def stack() -> AsyncIterator[tuple[Up, Client]]:
    with open_folder() as place:
        async with running_up(place / ".millrace") as up, aiohttp.ClientSession() as session:
            yield up, Client(session, up.ready)


async def test_options_come_of_one_run_though_the_gateway_and_the_executor_are_killed_meanwhile(stack: tuple[Up, Client]) -> None:
    up, client = stack
    await client.put_file("forms.py", PROVIDER)

    async def read() -> Any:
        async def answered() -> Any:
            with contextlib.suppress(aiohttp.ClientError):
                return await client.available(OPTIONS)

        return await eventually(answered, within=240, every=0.2)

    async def runs() -> list[Any]:
        found = await client.available("/api/v1/runs?workflow=slow")
        return found["items"] if found else []

    async def goes_on() -> bool:
        return any(one["status"] == "running" for one in await runs())

    async with asyncio.TaskGroup() as readers:
        reading = [readers.create_task(read()) for _ in range(READERS)]
        await eventually(goes_on)
        for service in ("gateway", "executor"):
            os.kill(up.read()["services"][service], signal.SIGKILL)
    told = [one.result() for one in reading]
    assert {one["run"] for one in told} == {told[0]["run"]}
    assert [one["value"] for one in told[0]["options"]] == ["a", "b"]
    (run,) = await runs()
    assert (run["id"], run["status"]) == (told[0]["run"], "succeeded")
