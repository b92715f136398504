"""State and locks as runs have them: shared within the organization, and given back however an attempt ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_gateway import Client, gateway
from tests.support.inside import bus_of, eventually
from tests.support.river import Outside, river
from tests.support.servers import Place

WORKFLOWS = b"""
import asyncio
import os
import time

from millrace import LockTimeout, Refused, VersionConflict, locks, state, workflow


@workflow
async def tour() -> dict:
    made = state.put("sync/a", {"n": 1})
    await state.aput("sync/b", [1, 2], expected=0, ttl=1000)
    said = []
    for call, value, expected in ((state.put, [2], 0), (state.delete, [], 10**6)):
        try:
            call("sync/a", *value, expected=expected)
        except VersionConflict as error:
            said.append(error.kind)
    try:
        state.increment("sync/a")
    except Refused as error:
        said.append(error.kind)
    changed = state.put("sync/a", {"n": 2}, expected=made.version)
    return {
        "said": said, "value": await state.aget("sync/a"), "newer": changed.version > made.version, "none": state.get("none", 5),
        "keys": [one.key for one in await state.alist("sync/")], "counted": [state.increment("n", 5), await state.aincrement("n")],
        "deleted": [state.delete("n"), await state.adelete("n")], "by": state.item("sync/b").updated_by,
        "expires": state.item("sync/b").expires_at is not None, "nothing": await state.aitem("none"),
    }


@workflow(retries=3, retry_delay=0.01)
def again() -> int:
    if state.increment("tries") < 3:
        raise LookupError("not yet")
    return state.get("tries")


@workflow
def alone(folder: str) -> int:
    with locks.hold("counter", timeout=60) as fence:
        path = f"{folder}/count"
        count = int(open(path).read()) if os.path.exists(path) else 0
        time.sleep(0.1)
        with open(path, "w") as file:
            file.write(str(count + 1))
    return fence


@workflow
async def holding(name: str, how: str = "") -> str:
    async with locks.hold(name, timeout=30):
        state.increment("held")
        if how == "dies":
            os.kill(os.getpid(), 9)
        if how == "stays":
            await asyncio.sleep(120)
        return how


@workflow
async def trying(name: str, timeout: float = 0) -> list:
    said = []
    try:
        with locks.hold(name, timeout=timeout):
            said.append("held")
    except LockTimeout as error:
        said.append(str(error))
    try:
        async with asyncio.timeout(0.2):
            async with locks.hold(name, timeout=30):
                said.append("held")
    except TimeoutError:
        said.append("given up")
    return said


@workflow
def many() -> int:
    held = 0
    try:
        for number in range(100):
            locks.hold(f"lock-{number}").__enter__()
            held += 1
    except Refused as error:
        return [held, error.kind]
"""


@pytest.fixture
async def outside(place: Place, data: Path) -> AsyncIterator[Outside]:
    async with river(place, data) as outside:
        for org in ("default", "other"):
            assert (await outside.put_file("flows.py", WORKFLOWS, org=org)).problems == []
        yield outside


@pytest.fixture
async def client(place: Place, outside: Outside) -> AsyncIterator[Client]:
    async with gateway(place) as client:
        yield client


async def begin(client: Client, workflow: str, org: str = "default", wait: float = 60, **given: Any) -> Any:
    return (await client("POST", f"/api/v1/workflows/{workflow}/runs?wait={wait}&org={org}", json={"input": given})).json


async def held(client: Client, number: int, org: str = "default") -> None:
    async def is_held() -> bool:
        got = await client("GET", f"/api/v1/state/held?org={org}")
        return bool(got.status == 200 and got.json["value"] == number)

    await eventually(is_held)


async def test_runs_share_small_values_that_the_api_shows_and_changes(client: Client) -> None:
    run = await begin(client, "tour")
    assert run["status"] == "succeeded", run
    assert run["result"] == {
        "said": ["VersionConflict", "VersionConflict", "Invalid"],
        "value": {"n": 2},
        "newer": True,
        "none": 5,
        "keys": ["sync/a", "sync/b"],
        "counted": [5, 6],
        "deleted": [True, False],
        "by": f"run:{run['id']}",
        "expires": True,
        "nothing": None,
    }
    assert (await begin(client, "again"))["result"] == 3
    shown = await client("GET", "/api/v1/state/sync/a")
    assert (shown.json["value"], shown.headers["ETag"]) == ({"n": 2}, f'"{shown.json["version"]}"')
    assert [one["key"] for one in (await client("GET", "/api/v1/state?prefix=sync/&limit=1")).json["items"]] == ["sync/a"]
    assert (await client("GET", "/api/v1/state?org=other")).json["items"] == []
    assert (await client("GET", "/api/v1/state/sync/a?org=other")).status == 404
    late = await client("PUT", "/api/v1/state/sync/a", json={"value": 3}, headers=client.key | {"If-Match": '"1"'})
    assert (late.status, "version" in late.json["detail"]) == (412, True)
    put = await client("PUT", "/api/v1/state/sync/a", json={"value": 3}, headers=client.key | {"If-Match": shown.headers["ETag"]})
    assert (put.status, put.json["value"]) == (200, 3)
    assert (await client("PUT", "/api/v1/state/large", json={"value": "x" * 20_000})).status == 413
    assert (await client("PUT", f"/api/v1/state/{'k' * 201}", json={"value": 1})).status == 422
    assert [(await client("DELETE", "/api/v1/state/sync/a")).status for _ in range(2)] == [204, 404]


async def test_runs_that_hold_one_lock_go_one_after_the_other(client: Client, shared_folder: Path) -> None:
    runs = await asyncio.gather(*(begin(client, "alone", folder=str(shared_folder)) for _ in range(8)))
    fences = [run["result"] for run in runs]
    assert len(set(fences)) == 8
    assert (shared_folder / "count").read_text() == "8"


async def test_a_lock_is_free_again_however_its_holder_ends_and_is_the_organizations_own(place: Place, client: Client) -> None:
    assert (await begin(client, "holding", name="a", how="dies"))["status"] == "crashed"
    assert (await begin(client, "holding", name="a"))["status"] == "succeeded"
    staying = await begin(client, "holding", name="a", how="stays", wait=0)
    await held(client, 3)
    tried = await begin(client, "trying", name="a")
    assert tried["result"] == ["the lock 'a' was not free within 0 s", "given up"], tried
    assert (await begin(client, "trying", name="a", org="other"))["result"] == ["held", "held"]
    await client("POST", f"/api/v1/runs/{staying['id']}/cancel")
    assert (await begin(client, "holding", name="a"))["status"] == "succeeded"
    assert (await begin(client, "many"))["result"] == [16, "TooLarge"]


async def test_an_attempt_that_loses_its_lock_is_ended(place: Place, client: Client) -> None:
    staying = await begin(client, "holding", name="a", how="stays", wait=0)
    await held(client, 1)
    async with bus_of(place, "admin") as admin:
        await admin.client.jetstream().purge_stream("KV_locks")

    async def ended() -> Any:
        run = (await client("GET", f"/api/v1/runs/{staying['id']}")).json
        return run if run["status"] == "failed" else None

    run: Any = await eventually(ended)
    assert run["error"]["type"] == "LockLost", json.dumps(run)
