"""`millrace backup` and `millrace restore`: taken while all works, whole or refused, and nothing is done a second time."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any, cast

import aiohttp

from tests.support.client import Client
from tests.support.inside import eventually
from tests.support.programs import ended, program
from tests.support.stack import Up, running_up

WEBHOOKS = 20
WORKFLOWS = b"""
import time
import uuid
from millrace import step, workflow


@workflow(name="greet")
def greet(event: dict) -> str:
    return event["data"]["ref"]


@workflow(name="long")
def long() -> str:
    mine = uuid.uuid4().hex
    if step.sync("first", lambda: mine) == mine:
        time.sleep(600)
    return "a later attempt"
"""


async def backup(folder: Path, *options: str) -> tuple[int, str]:
    return await ended(await program(sys.executable, "-m", "deploy.backup", str(folder), *options))


async def restore(folder: Path, data: Path) -> asyncio.subprocess.Process:
    return await program(sys.executable, "-m", "deploy.restore", str(folder), "--data", str(data))


async def restored(folder: Path, data: Path) -> tuple[int, str]:
    return await ended(await restore(folder, data))


async def send(client: Client, address: str, name: str) -> list[str]:
    answers = [await client.github(address, "s3cret", json.dumps({"ref": f"{name}{n}"}).encode()) for n in range(WEBHOOKS)]
    assert {status for status, _ in answers} == {202}
    return [answer["id"] for _, answer in answers]


async def results(client: Client) -> list[str]:
    """Return the results of all runs of `greet`, when all have ended."""

    async def ended() -> list[Any]:
        items = (await client.call("GET", "/api/v1/runs?workflow=greet&limit=1000"))["items"]
        return items if all(one["status"] == "succeeded" for one in items) else []

    items = cast("list[Any]", await eventually(ended))
    return sorted([(await client.call("GET", f"/api/v1/runs/{one['id']}"))["result"] for one in items])


async def test_a_backup_of_a_working_stack_is_of_one_moment_and_its_run_in_flight_ends_once(up: Up) -> None:
    place = up.data.parent
    async with aiohttp.ClientSession() as session:
        client = Client(session, up.ready)
        await client.put_file("greet.py", WORKFLOWS)
        source = await client.call("PUT", "/api/v1/sources/repo", body={"adapter": "github", "settings": {"secret": "s3cret"}})
        await client.call("PUT", "/api/v1/subscriptions/push", body={"source": "repo", "event": "push", "workflow": "greet"})
        await client.call("PUT", "/api/v1/secrets/signing.key", body={"value": "sec"})
        ids = await send(client, source["url"], "before")
        for id_ in ids:
            await client.delivery(id_, "routed")
        run = await client.call("POST", "/api/v1/workflows/long/runs", body={"input": {}})

        async def begun() -> bool:
            return bool((await client.call("GET", f"/api/v1/runs/{run['id']}/steps"))["items"])

        await eventually(begun, within=60)
        # What comes meanwhile is within the backup or not, each as a whole.
        sending = asyncio.create_task(send(client, source["url"], "meanwhile"))
        code, said = await backup(place / "first", "--data", str(up.data))
        assert code == 0, said
        await sending
        after = await send(client, source["url"], "after")
        for id_ in after:
            await client.delivery(id_, "routed")
    assert (place / "first.keys.json").stat().st_mode & 0o777 == 0o600
    assert str(place / "first.keys.json") in said
    secrets = json.loads((place / "first.keys.json").read_bytes())["keys"]
    assert not any(secrets[0].encode() in file.read_bytes() for file in (place / "first").rglob("*") if file.is_file())

    assert (await restored(place / "first", place / "second"))[0] == 0
    async with running_up(place / "second") as second, aiohttp.ClientSession() as session:
        client = Client(session, second.ready)
        done = await client.run(run["id"], "succeeded")
        assert (done["attempt"], done["result"]) == (2, "a later attempt")
        address = second.ready["url"] + source["url"][source["url"].index("/hooks") :]
        again = await send(client, address, "again")
        for id_ in again:
            await client.delivery(id_, "routed")
        found = await results(client)
        # Nothing twice, all from before, nothing of later; new work goes its way.
        assert len(found) == len(set(found))
        assert {one for one in found if one.startswith("before")} == {f"before{n}" for n in range(WEBHOOKS)}
        assert {one for one in found if one.startswith("again")} == {f"again{n}" for n in range(WEBHOOKS)}
        assert not any(one.startswith("after") for one in found)
    shutil.rmtree(place / "second")
