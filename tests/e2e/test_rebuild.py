"""`millrace rebuild --from bus`: dropped rows come back equal, whatever kills it; nothing goes that cannot come back."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import nats
import pytest_asyncio

from shared.messages.shards import in_shard, noun_of, shard_of
from shared.runs import RUN_SHARDS, run_stream
from tests.support.client import Client
from tests.support.inside import eventually
from tests.support.programs import BOUND, ended, program
from tests.support.stack import Up
from tests.support.states import stores_of

WEBHOOKS = 120
# The projections of runs, one for each shard.
RUNS = "+".join(in_shard("runs", shard) for shard in range(RUN_SHARDS))
WORKFLOW = b"""
from millrace import log, step, workflow


@workflow(name="greet")
def greet(event: dict) -> str:
    log.info("greeting", ref=event["data"]["ref"])
    return step.sync("read", event["data"].get, "ref")
"""


async def rebuild(data: Path, *options: str) -> asyncio.subprocess.Process:
    return await program(sys.executable, "-m", "deploy.rebuild", "--from", "bus", "--data", str(data), *options)


async def rebuilt(data: Path, *options: str) -> tuple[int, str]:
    return await ended(await rebuild(data, *options))


async def statement(data: Path, *sql: Any) -> Any:
    async with stores_of(data) as started:
        connection = await asyncpg.connect(started.database_url)
        try:
            return await connection.fetchval(*sql)
        finally:
            await connection.close()


async def max_ages(data: Path) -> dict[str, float]:
    async with stores_of(data) as started:
        client = await nats.connect(started.nats_url)
        try:
            return {info.config.name or "": info.config.max_age or 0 for info in await client.jetstream().streams_info()}
        finally:
            await client.close()


async def fill(up: Up) -> None:
    async with aiohttp.ClientSession() as session:
        client = Client(session, up.ready)
        await client.put_file("greet.py", WORKFLOW)
        source = await client.call("PUT", "/api/v1/sources/repo", body={"adapter": "github", "settings": {"secret": "s3cret"}})
        await client.call("PUT", "/api/v1/subscriptions/push", body={"source": "repo", "event": "push", "workflow": "greet"})
        await client.call("PUT", "/api/v1/connections/halopsa", body={"grant": "token", "token": "tok"})
        await client.call("PUT", "/api/v1/integrations/halopsa", body={"config_schema": {"type": "object"}})
        await client.call("PUT", "/api/v1/integrations/halopsa/mappings/default", body={"config": {"a": 1}, "entity_id": "42"})
        await client.call("PUT", "/api/v1/sources/orders", body={"adapter": "topic", "integration": "halopsa"})
        await client.call("POST", "/api/v1/sources/orders/events", body={"type": "order.paid", "data": {"n": 1}})
        await client.call("PUT", "/api/v1/secrets/signing.key", body={"value": "sec"})
        await client.call("PUT", "/api/v1/variables/limits", body={"value": {"b": [1.50, "é"], "a": None}})
        for number in range(WEBHOOKS):
            status, _ = await client.github(source["url"], "s3cret", json.dumps({"ref": f"r{number}"}).encode())
            assert status == 202

        async def ended() -> bool:
            items = (await client.call("GET", "/api/v1/runs?status=succeeded&limit=1000"))["items"]
            return len(items) == WEBHOOKS

        await eventually(ended)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stopped(up: Up) -> Path:
    """The folder of a stack that has worked and was stopped; while it ran, a rebuild was refused."""
    await fill(up)
    code, said = await rebuilt(up.data)
    assert up.process is not None
    assert (code, said.count("\n")) == (2, 1)
    assert f"pid {up.process.pid}" in said
    await up.until_ready_again()
    await up.stop()
    return up.data


async def test_a_killed_rebuild_goes_on_and_gives_equal_rows(stopped: Path) -> None:
    ages = await max_ages(stopped)
    process = await rebuild(stopped)
    memory = stopped / "rebuild.json"
    async with asyncio.timeout(BOUND):
        while not memory.exists() or json.loads(memory.read_text())["phase"] != "replaying":
            assert process.returncode is None
            await asyncio.sleep(0.002)
    process.kill()
    await process.communicate()
    # What waits to be replayed must not age off the bus meanwhile.
    assert (await max_ages(stopped))["LOGS"] == 0
    left = await statement(stopped, "SELECT count(*) FROM logs.message")
    code, said = await rebuilt(stopped)
    assert "Going on with the rebuild" in said
    assert (code, said.count(" equal"), "different" in said) == (0, 37 + 4 * (RUN_SHARDS - 1), False), said
    assert left < await statement(stopped, "SELECT count(*) FROM logs.message")
    assert not memory.exists()
    assert await max_ages(stopped) == ages


async def test_a_rebuild_repairs_rows_and_says_which_were_wrong(stopped: Path) -> None:
    await statement(stopped, "UPDATE executor.run SET status = 'lost' WHERE id = (SELECT min(id) FROM executor.run)")
    code, said = await rebuilt(stopped, "--service", "executor")
    assert code == 1, said
    assert [line.split()[0] for line in said.splitlines() if "different" in line] == ["executor.run"]
    assert "events." not in said
    assert await statement(stopped, "SELECT count(*) FROM executor.run WHERE status = 'succeeded'") == WEBHOOKS
    assert (await rebuilt(stopped, "--service", "executor"))[0] == 0


async def test_tokens_and_secrets_are_never_touched(stopped: Path) -> None:
    asked = "SELECT string_agg(noun || sealed || xmin, ' ' ORDER BY noun) FROM oauth.vault"
    before = await statement(stopped, asked)
    assert before
    await rebuilt(stopped, "--force")
    assert await statement(stopped, asked) == before
    assert await statement(stopped, "SELECT count(*) FROM oauth.resource") == 1


async def test_a_rebuild_goes_past_what_cannot_be_taken_and_says_so(stopped: Path) -> None:
    run = "0" * 8 + "-old"
    data = {"run": run, "workflow": "a\0b", "version": "v", "requested_by": "t", "timeout": 1.0, "delivery": "d\0"}
    old = {"id": "old", "type": "run.requested", "source": "/events", "subject": run, "time": "2026-01-02T03:04:05Z"}
    async with stores_of(stopped) as started:
        client = await nats.connect(started.nats_url)
        document = json.dumps(old | {"org": "default", "correlationid": "c", "data": data}).encode()
        await client.jetstream().publish(f"{noun_of('run', run)}.{run}.requested.normal", document)
        await client.jetstream().publish(f"{noun_of('run', run)}.{run}.started", b"\xff no message")
        await client.close()
    letters = "SELECT count(*) FROM logs.message WHERE stream = 'DEAD' AND type = 'dead.run.started'"
    for _ in range(2):
        code, said = await rebuilt(stopped)
        assert (code, "different" in said) == (0, False), said
        for service in ("executor", "events"):
            name = f"{service}.{in_shard('runs', shard_of(run, RUN_SHARDS))}"
            [told] = [line for line in said.splitlines() if line.startswith(f"{name} kept")]
            assert "kept 1 that could not be stored as they are" in told
            assert "passed over 1 of which no row can be made: they are dead letters" in told
        assert await statement(stopped, "SELECT workflow FROM executor.run WHERE id = $1", run) == "a\ufffdb"
        # One for each projection that could not take it, however often it is replayed.
        assert await statement(stopped, letters) == 2


async def test_rows_that_the_bus_cannot_bring_back_stay_unless_forced(stopped: Path) -> None:
    async with stores_of(stopped) as started:
        client = await nats.connect(started.nats_url)
        await client.jetstream().purge_stream("WEBHOOKS", seq=11)
        await client.close()
    code, said = await rebuilt(stopped, "--service", "events", "--service", "logs")
    assert code == 1, said
    assert f"events.webhooks+events+{RUNS}+dead was left alone: the bus no longer holds 10 messages of WEBHOOKS" in said
    assert "different" not in said
    assert await statement(stopped, "SELECT count(*) FROM events.delivery WHERE sequence < 11") == 10
    # The archive keeps what is older than its stream, and replays the rest.
    assert await statement(stopped, "SELECT count(*) FROM logs.message WHERE stream = 'WEBHOOKS'") == WEBHOOKS
    code, said = await rebuilt(stopped, "--service", "events", "--force")
    assert code == 1
    assert "10 of WEBHOOKS" in said
    assert await statement(stopped, "SELECT count(*) FROM events.delivery WHERE sequence < 11") == 0


async def test_rows_of_purged_runs_stay_and_the_others_are_made_anew(stopped: Path) -> None:
    async def purge(*, marked: bool) -> None:
        """Purge five runs; of those that are marked, two as by a purger that was killed before it could say so."""
        async with stores_of(stopped) as started:
            client = await nats.connect(started.nats_url)
            connection = await asyncpg.connect(started.database_url)
            try:
                ids = "SELECT id FROM executor.run WHERE on_bus = 'whole' ORDER BY id LIMIT 5"
                for number, row in enumerate(await connection.fetch(ids)):
                    if marked:
                        mark = "going" if number < 2 else "gone"
                        await connection.execute("UPDATE executor.run SET on_bus = $1 WHERE id = $2", mark, row["id"])
                    subject = f"{noun_of('run', row['id'])}.{row['id']}.>"
                    await client.jetstream().purge_stream(run_stream(row["id"]), subject=subject)
            finally:
                await connection.close()
                await client.close()

    await purge(marked=True)
    code, said = await rebuilt(stopped, "--service", "executor")
    assert (code, "different" in said, "left alone" in said) == (0, False, False), said
    assert await statement(stopped, "SELECT count(*) FROM executor.run WHERE status = 'succeeded'") == WEBHOOKS
    assert await statement(stopped, "SELECT count(*) FROM executor.run WHERE on_bus <> 'whole'") == 5
    assert await statement(stopped, "SELECT count(*) FROM executor.step WHERE name = 'read'") == WEBHOOKS
    # What vanished without a mark is a loss, and its rows are all that is left.
    await purge(marked=False)
    code, said = await rebuilt(stopped, "--service", "executor")
    assert code == 1
    alone = r"executor\.runs\S* was left alone: the bus no longer holds the first messages of ([0-9]+) rows \(RUNS"
    assert sum(map(int, re.findall(alone, said))) == 10
    assert await statement(stopped, "SELECT count(*) FROM executor.run WHERE status = 'succeeded'") == WEBHOOKS


async def test_what_cannot_begin_says_so_in_one_sentence() -> None:
    code, said = await rebuilt(Path("/nowhere"))
    assert (code, said.count("\n")) == (2, 1)
    assert "/nowhere is no data folder" in said
