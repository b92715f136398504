"""Parts of an installation are lost while runs are in flight: what is left brings all back as it was, and nothing is done twice.

One installation loses its database, then streams, then everything: each test goes on where the one before it ended.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest_asyncio

from deploy.positions import administrator
from shared.pull import api_request
from shared.runs import ENDED, RUN_STREAMS
from shared.streams import STREAMS
from tests.support import states
from tests.support.client import Client
from tests.support.inside import eventually
from tests.support.places import open_folder
from tests.support.programs import output
from tests.support.stack import running_up

WEBHOOKS = 10
WORKFLOWS = b"""
import time
import uuid
from millrace import sleep, step, wait_for, workflow


@workflow(name="greet")
def greet(event: dict) -> str:
    return event["data"]["ref"]


@workflow(name="long")
def long() -> str:
    mine = uuid.uuid4().hex
    if step.sync("first", lambda: mine) == mine:
        time.sleep(600)
    return "a later attempt"


@workflow(name="approved")
async def approved() -> str:
    return (await wait_for("approval")).data


@workflow(name="nap")
async def nap() -> str:
    await sleep(15)
    return "awake"
"""
LISTS = (
    *("sources", "subscriptions", "integrations", "integrations/halopsa/mappings", "schedules", "variables", "workflows"),
    *("workspace/files", "runs?limit=1000", "deliveries?limit=1000"),
)


# What a new database cannot have: how far schedules have come, which they find anew, and what was sealed. Timers that have fired
# left the bus, and are a gap.
ALONE = {"oauth.vault", "oauth.past_version", "oauth.done_command", "events.schedule_state", "logs.gap"}
OFF_THE_BUS = {"logs.message": "stream <> 'TIMERS'"}
LOST = ("CATALOG", *RUN_STREAMS, "CONNECTIONS")


class Installation:
    """One data folder, which runs now and then; `seen` is what callers saw when its runs in flight had begun."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.data = place / "first"
        self.flight: dict[str, str] = {}
        self.path = ""
        self.seen: dict[str, Any] = {}

    @asynccontextmanager
    async def running(self, missing: Collection[str] = ()) -> AsyncIterator[Client]:
        """Run it for the block; by then no run may have had more than one end, and the archive miss messages of `missing` alone."""
        async with running_up(self.data) as up, aiohttp.ClientSession() as session:
            yield Client(session, up.ready)
            async with administrator(up.ready["nats_url"]) as admin:
                assert set((await ends(admin)).values()) == {1}
            connection = await asyncpg.connect(up.ready["database_url"])
            gaps = await connection.fetch("SELECT DISTINCT stream FROM logs.gap WHERE reason <> 'purged'")
            await connection.close()
            assert {one["stream"] for one in gaps} <= set(missing)

    async def lists(self, client: Client) -> dict[str, Any]:
        """Return all that callers can list, but for the runs in flight, at whatever port."""
        found = {name: (await client.call("GET", f"/api/v1/{name}"))["items"] for name in LISTS}
        runs = found["runs?limit=1000"]
        runs[:] = [one for one in runs if one["id"] not in self.flight.values()]
        listed: dict[str, Any] = json.loads(json.dumps(found).replace(client.url, ""))
        return listed

    async def send(self, client: Client, name: str, *, again: bool = False) -> None:
        """Send webhooks with ids that derive from `name`; those that come `again` may be known to the broker."""
        for number in range(WEBHOOKS):
            body = json.dumps({"ref": f"{name}{number}"}).encode()
            answered, _ = await client.github(client.url + self.path, "s3cret", body, delivery=f"{name}-{number}")
            assert answered == 202 or (again and answered == 200)

    async def greeted(self, client: Client, *names: str, perhaps: str = "") -> None:
        """Wait until the webhooks of these names, and no others, have one run each, which ended with its first attempt.

        Of those named `perhaps` any may have one.
        """

        expected = {f"{name}{number}" for name in names for number in range(WEBHOOKS)}
        found: dict[str, Any] = {}

        async def settled() -> bool:
            runs = (await client.call("GET", "/api/v1/runs?workflow=greet&limit=1000"))["items"]
            for one in runs:
                if one["status"] in ENDED and one["id"] not in found:
                    found[one["id"]] = await client.call("GET", f"/api/v1/runs/{one['id']}")
            # Deliveries hear of the ends of their runs in their own time.
            deliveries = (await client.call("GET", "/api/v1/deliveries?limit=1000"))["items"]
            told = [one["status"] for delivery in deliveries for one in delivery["runs"]]
            results = {one["result"] for one in found.values()}
            return len(found) == len(runs) == len(told) and set(told) <= set(ENDED) and expected <= results

        await eventually(settled)
        assert {one["attempt"] for one in found.values()} == {1}
        results = Counter(one["result"] for one in found.values())
        assert set(results.values()) == {1}
        assert {one for one in results if not perhaps or not one.startswith(perhaps)} == expected

    async def begin(self, client: Client) -> None:
        """Have runs in flight: one works, one waits for a signal, one sleeps."""
        for name, status in (("long", "running"), ("approved", "waiting"), ("nap", "waiting")):
            run = (await client.call("POST", f"/api/v1/workflows/{name}/runs", body={"input": {}}))["id"]
            await client.run(run, status)
            self.flight[name] = run

        async def begun() -> bool:
            return bool((await client.call("GET", f"/api/v1/runs/{self.flight['long']}/steps"))["items"])

        await eventually(begun)
        self.seen = await self.lists(client)

    async def end(self, client: Client) -> None:
        """Let the runs in flight end: each once, by its second attempt."""
        await client.call("POST", f"/api/v1/runs/{self.flight['approved']}/signals/approval", body="yes")
        expected = {"long": "a later attempt", "approved": "yes", "nap": "awake"}
        for name, run in self.flight.items():
            ended = await client.run(run, *ENDED)
            assert (ended["status"], ended["result"], ended["attempt"]) == ("succeeded", expected[name], 2), ended


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def installation() -> AsyncIterator[Installation]:
    with open_folder() as place:
        made = Installation(place)
        async with made.running() as client:
            await client.put_file("greet.py", WORKFLOWS)
            source = await client.call("PUT", "/api/v1/sources/repo", body={"adapter": "github", "settings": {"secret": "s3cret"}})
            made.path = source["url"][source["url"].index("/hooks") :]
            await client.call("PUT", "/api/v1/subscriptions/push", body={"source": "repo", "event": "push", "workflow": "greet"})
            await client.call("PUT", "/api/v1/integrations/halopsa", body={"config_schema": {"type": "object"}})
            await client.call("PUT", "/api/v1/integrations/halopsa/mappings/default", body={"config": {"a": 1}, "entity_id": "42"})
            await client.call("PUT", "/api/v1/schedules/yearly", body={"cron": "0 0 1 1 *", "workflow": "nap"})
            await client.call("PUT", "/api/v1/variables/limits", body={"value": {"a": None}})
            await seal(client)
            await made.send(client, "first")
            await made.greeted(client, "first")
            await made.begin(client)
        yield made


async def seal(client: Client) -> None:
    """Give what is in the database alone."""
    await client.call("PUT", "/api/v1/connections/halopsa", body={"grant": "token", "token": "tok"})
    await client.call("PUT", "/api/v1/secrets/signing.key", body={"value": "sec"})


async def command(name: str, *arguments: str) -> tuple[int, str]:
    return await output(sys.executable, "-m", f"deploy.{name}", *arguments)


async def ends(admin: Any) -> Counter[str]:
    """Return how many ends every run has had that had one."""
    found: Counter[str] = Counter()
    for stream in RUN_STREAMS:
        info = await api_request(admin, f"$JS.API.STREAM.INFO.{stream}", {"subjects_filter": ">"})
        for subject, count in (info["state"].get("subjects") or {}).items():
            _, run, verb, *_ = subject.split(".")
            if verb in ENDED:
                found[run] += count
    return found


def unlike(before: dict[str, Any], now: dict[str, Any]) -> set[str]:
    """Return the tables, without checkpoints, whose rows differ."""
    return {name for name in before if not name.endswith(".checkpoint") and before[name] != now[name]}


async def test_a_lost_database_is_made_anew_of_the_bus(installation: Installation) -> None:
    async with states.opened(installation.data) as (stores, admin, connection):
        await states.catch_up(stores, admin, connection)
        before = await states.rows(connection, OFF_THE_BUS)
    shutil.rmtree(installation.data / "postgres")
    code, said = await command("rebuild", "--from", "bus", "--data", str(installation.data))
    # What is on no stream is named.
    lost = "Lost of the secrets: 2 (connection halopsa of default, secret signing.key of default)."
    assert (code, said.count("Lost of"), lost in said) == (1, 1, True), said
    async with states.opened(installation.data) as (_, _, connection):
        assert unlike(before, await states.rows(connection, OFF_THE_BUS)) <= ALONE
    async with installation.running() as client:
        assert await installation.lists(client) == installation.seen
        await installation.end(client)
        # Sent again: known as before.
        await installation.send(client, "first", again=True)
        await installation.send(client, "second")
        await installation.greeted(client, "first", "second")
        await seal(client)
        await installation.begin(client)


async def test_lost_streams_registries_and_timers_are_made_anew_of_the_archive(installation: Installation) -> None:
    async with states.opened(installation.data) as (stores, admin, connection):
        await states.catch_up(stores, admin, connection)
        before = await states.rows(connection), {name: await states.content(admin, name) for name in LOST}
        names = (await api_request(admin, "$JS.API.STREAM.NAMES", {}))["streams"]
        for name in (*LOST, "TIMERS", *(name for name in names if name.startswith("KV_") and name != "KV_digests")):
            await api_request(admin, f"$JS.API.STREAM.DELETE.{name}", None)
    code, said = await command("rebuild", "--from", "archive", "--data", str(installation.data))
    assert (code, f"Refilled: {', '.join(sorted(LOST))}. Offered again: 1 runs." in said) == (0, True), said
    assert re.search(r"Timers set: [12]\.", said), said
    async with states.opened(installation.data) as (_, admin, connection):
        assert unlike(before[0], await states.rows(connection)) == set()
        # But for the run that is offered again.
        last = {name: count for name, (count, _) in before[1].items()}
        assert {name: await states.content(admin, name, last[name]) for name in LOST} == before[1]
    async with installation.running() as client:
        assert await installation.lists(client) == installation.seen
        await installation.end(client)
        await installation.send(client, "first", again=True)
        await installation.send(client, "third")
        await installation.greeted(client, "first", "second", "third")
        await installation.begin(client)
        # What comes meanwhile is within the backup or not, each as a whole.
        sending = asyncio.create_task(installation.send(client, "meanwhile"))
        code, said = await command("backup", str(installation.place / "backup"), "--data", str(installation.data))
        assert code == 0, said
        await sending
        await installation.send(client, "later")


async def test_a_lost_installation_is_restored_from_its_backup(installation: Installation) -> None:
    shutil.rmtree(installation.data)
    keys = installation.place / "backup.keys.json"
    assert keys.stat().st_mode & 0o777 == 0o600
    secret = json.loads(keys.read_bytes())["keys"][0].encode()
    files = [file for file in (installation.place / "backup").rglob("*") if file.is_file()]
    assert not any(secret in file.read_bytes() for file in files)
    code, said = await command("restore", str(installation.place / "backup"), "--data", str(installation.data))
    assert code == 0, said
    # It is no half of one: the bus has all that its rows were made of.
    code, said = await command("rebuild", "--from", "bus", "--data", str(installation.data))
    assert (code, "different" in said) == (0, False), said
    # What came behind the moment is lost, and recorded so.
    async with installation.running(missing=[stream.name for stream in STREAMS]) as client:
        # But for what came meanwhile.
        now = await installation.lists(client)
        moving = ("runs?limit=1000", "deliveries?limit=1000")
        assert {name: now[name] for name in LISTS if name not in moving} == {
            name: installation.seen[name] for name in LISTS if name not in moving
        }
        for name in moving:
            assert {one["id"] for one in installation.seen[name]} <= {one["id"] for one in now[name]}
        await installation.end(client)
        # The broker remembers ids for ten minutes; the rows of deliveries do for longer.
        await installation.send(client, "first", again=True)
        await installation.send(client, "fourth")
        await installation.greeted(client, "first", "second", "third", "fourth", perhaps="meanwhile")
