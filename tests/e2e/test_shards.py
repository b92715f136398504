"""An installation whose runs are in three streams: nothing of it is to be seen, and none of it is lost."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest_asyncio

from deploy.positions import held
from shared.client import connect
from shared.messages.shards import VARIABLE, shard_of
from tests.support.client import Client
from tests.support.inside import eventually
from tests.support.places import open_folder
from tests.support.programs import output
from tests.support.stack import running_up

SHARDS = 3
ENVIRONMENT = {**os.environ, VARIABLE: str(SHARDS), "MILLRACE_DIGEST_SECONDS": "1"}
PARENTS = 9
# Items of a page of a search: so few that pages end in each shard.
SOME = 2
WORKFLOWS = b"""
from millrace import runs, wait_for, workflow


@workflow(name="child")
def child(n: int) -> int:
    return 2 * n


@workflow(name="parent")
async def parent(n: int) -> int:
    return await runs.call("child", {"n": n})


@workflow(name="approved", concurrency="workflow")
async def approved() -> str:
    return (await wait_for("approval")).data
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def worked() -> AsyncIterator[Path]:
    """The folder of a stack that has worked and was stopped."""
    with open_folder() as folder:
        async with running_up(folder / "data", environment=ENVIRONMENT) as up, aiohttp.ClientSession() as session:
            client = Client(session, up.ready)
            await client.put_file("flows.py", WORKFLOWS)
            await look(client, up.ready["nats_url"], succeeded=await follow(client))
        yield folder / "data"


async def follow(client: Client) -> int:
    """Have runs that ask for others, in every shard, and some that take turns, wait for a signal and are stopped.

    Returns how many have succeeded.
    """
    begun: list[Any] = []
    while len(begun) < PARENTS or len({shard_of(run["id"], SHARDS) for run in begun}) < SHARDS:
        begun.append(await client.call("POST", "/api/v1/workflows/parent/runs", body={"input": {"n": len(begun)}}))
    for n, run in enumerate(begun):
        assert (await client.run(run["id"], "succeeded", "failed"))["result"] == 2 * n
    # Of these one goes on at a time: what ends in one shard makes room for what waits in another.
    turns: list[Any] = []
    while len(turns) < SHARDS or len({shard_of(run["id"], SHARDS) for run in turns}) < SHARDS:
        turns.append(await client.call("POST", "/api/v1/workflows/approved/runs", body={"input": {}}))
        await client.run(turns[-1]["id"], "waiting")
    last = turns.pop()
    await client.call("POST", f"/api/v1/runs/{last['id']}/cancel")
    await client.run(last["id"], "cancelled")
    for run in turns:
        await client.call("POST", f"/api/v1/runs/{run['id']}/signals/approval", body="yes")
        assert (await client.run(run["id"], "succeeded"))["result"] == "yes"
    return 2 * len(begun) + len(turns)


async def look(client: Client, nats_url: str, *, succeeded: int) -> None:
    """Each shard holds its runs, and a search for what is in RUNS finds those of all, in pages as well, as an erasure does."""
    admin = await connect(nats_url)
    try:
        stored = [await held(admin, name) for name in ("RUNS", "RUNS-1", "RUNS-2")]
    finally:
        await admin.close()
    assert all(one.messages for one in stored)

    q = "stream:RUNS type:run.succeeded"

    async def found() -> Any:
        streams: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            answer = await client.available(f"/api/v1/logs?q={quote(q)}&limit={SOME}" + (f"&cursor={cursor}" if cursor else ""))
            if answer is None:
                return False
            streams += [item["stream"] for item in answer["items"]]
            cursor = answer["next_cursor"]
        return (len(streams), len(set(streams))) == (succeeded, SHARDS)

    await eventually(found)

    async def kept() -> Any:
        body = {"org": "default", "q": q, "reason": "request 17", "from": "now-1h"}
        answer = await client.call("POST", "/api/v1/erasures", body=body)
        assert answer["erased"] == 0
        # Each was shown to the owner of its shard, which keeps it.
        lately = {one["stream"] for one in answer["kept"] if "ended within the last hour" in one["reason"]}
        return len(lately) == SHARDS

    await eventually(kept)


async def test_a_backup_has_every_shard_and_rows_are_made_anew_of_all_of_them(worked: Path) -> None:
    backup, keys = str(worked.parent / "backup"), str(worked.parent / "backup.keys.json")
    code, said = await output(sys.executable, "-m", "deploy.backup", backup, "--data", str(worked), environment=ENVIRONMENT)
    assert code == 0, said
    restore = (sys.executable, "-m", "deploy.restore", backup, "--keys", keys, "--data", str(worked.parent / "again"))
    code, said = await output(*restore, environment=ENVIRONMENT | {VARIABLE: "1"})
    assert (code, "the stream RUNS is made for 3" in said) == (2, True), said
    code, said = await output(*restore, environment=ENVIRONMENT)
    assert code == 0, said
    command = (sys.executable, "-m", "deploy.rebuild", "--from", "bus", "--data", str(worked.parent / "again"))
    code, said = await output(*command, environment=ENVIRONMENT)
    assert (code, "different" in said, "executor.run of RUNS-2" in said) == (0, False, True), said


async def test_whoever_is_told_another_number_is_refused(worked: Path) -> None:
    sentence = f"{VARIABLE} is 2, and the stream RUNS is made for 3: set it to 3 for every service and every command"
    other = ENVIRONMENT | {VARIABLE: "2"}
    data, backup = str(worked), str(worked.parent / "another")
    for command in (("deploy.local", "--data", data, "--port", "0", "--unsafe"), ("deploy.backup", backup, "--data", data)):
        code, said = await output(sys.executable, "-m", *command, environment=other)
        assert (code, sentence in said) == (2, True), said
