"""Options of forms and state with a whole stack: as the command has them, and of one run, whoever is killed while it goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Any

import aiohttp

from tests.support.client import Client
from tests.support.command import Command
from tests.support.inside import eventually
from tests.support.stack import Up

PROVIDERS = b"""
import time

from millrace import data_provider, state


@data_provider(ttl=3600, timeout=300)
def slow(seconds: float) -> list:
    '''Take your time.'''
    time.sleep(seconds)
    return ["a", {"value": state.increment("asked/slow"), "label": "Often"}]


@data_provider
def broken() -> list:
    raise LookupError("no board")
"""
OPTIONS = '/api/v1/data-providers/slow?wait=60&input={"seconds":8}'
READERS = 50


async def test_the_command_shows_options_and_changes_state(client: Client, millrace: Command) -> None:
    await client.put_file("forms.py", PROVIDERS)
    assert [line.split()[:1] for line in (await millrace("data-providers", "list")).splitlines()[1:]] == [["broken"], ["slow"]]
    out, aside = await millrace.both("data-providers", "get", "slow", "-i", "seconds=0")
    assert [line.split() for line in out.splitlines()[1:]] == [['"a"', "a"], ["1", "Often"]]
    assert "of run" in aside
    again = await millrace.json("data-providers", "get", "slow", "--input", '{"seconds": 0}', "--refresh")
    assert again["options"][1]["value"] == 2
    _, aside = await millrace.both("data-providers", "get", "broken", code=1)
    assert "LookupError: no board" in aside
    _, aside = await millrace.both("data-providers", "get", "slow", "-i", "seconds=long", code=1)
    assert "input.seconds" in aside

    (kept,) = (await millrace.json("state", "list", "asked/"))["items"]
    assert (kept["key"], kept["value"], kept["updated_by"]) == ("asked/slow", 2, f"run:{again['run']}")
    assert (await millrace("state", "get", "asked/slow")).strip() == "2"
    version = (await millrace("state", "put", "asked/slow", "[1]", "--ttl", "1000", "--if-version", str(kept["version"]))).strip()
    _, aside = await millrace.both("state", "put", "asked/slow", "5", "--if-version", "0", code=1)
    assert f"version {version} is there" in aside
    await millrace("state", "delete", "asked/slow", "--if-version", version)
    assert "asked/slow" in (await millrace.both("state", "get", "asked/slow", code=1))[1]


async def test_options_come_of_one_run_though_the_gateway_and_the_executor_are_killed_meanwhile(up: Up, client: Client) -> None:
    await client.put_file("forms.py", PROVIDERS)
    before = {one["id"] for one in (await client.call("GET", "/api/v1/runs?workflow=slow"))["items"]}

    async def read() -> Any:
        async def answered() -> Any:
            with contextlib.suppress(aiohttp.ClientError):
                return await client.available(OPTIONS)

        return await eventually(answered, within=240, every=0.2)

    async def runs() -> list[Any]:
        found = await client.available("/api/v1/runs?workflow=slow")
        return [one for one in found["items"] if one["id"] not in before] if found else []

    async def goes_on() -> bool:
        return any(one["status"] == "running" for one in await runs())

    async with asyncio.TaskGroup() as readers:
        reading = [readers.create_task(read()) for _ in range(READERS)]
        await eventually(goes_on)
        for service in ("gateway", "executor"):
            os.kill(up.read()["services"][service], signal.SIGKILL)
    told = [one.result() for one in reading]
    assert {one["run"] for one in told} == {told[0]["run"]}
    assert told[0]["options"][0]["value"] == "a"
    (run,) = await runs()
    assert (run["id"], run["status"]) == (told[0]["run"], "succeeded")
