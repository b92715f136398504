"""The main job over HTTP, against five real service processes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest_asyncio

from tests.support.client import Client
from tests.support.collector import Collector, check_whole, collecting, is_complete, written
from tests.support.inside import eventually
from tests.support.places import open_folder
from tests.support.sandbox import TIERS
from tests.support.stack import Up, running_up

SECRET = "It's a Secret to Everybody"
WORKFLOWS = b"""
import time

from millrace import connections, log, workflow


@workflow(name="nap")
def nap(seconds: float) -> str:
    log.info("napping", seconds=seconds)
    time.sleep(seconds)
    return "rested"


@workflow(name="who")
def who() -> dict:
    halo = connections.get("halopsa")
    return {"name": halo.name, "length": len(halo.token)}


@workflow(name="on-push")
def on_push(event: dict) -> str:
    return event["data"]["ref"]
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def collector() -> AsyncIterator[Collector]:
    """A collector of the traces of `up`."""
    async with collecting() as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def up(collector: Collector) -> AsyncIterator[Up]:
    """A stack that traces."""
    with open_folder() as place:
        async with running_up(place / ".millrace", environment={**os.environ, **collector.environment}) as stack:
            yield stack


async def test_a_run_over_the_api_gives_its_result_in_the_answer(client: Client) -> None:
    view = await client.put_file("work.py", WORKFLOWS)
    assert (view["problems"], sorted(view["workflows"])) == ([], ["nap", "on-push", "who"])
    run = await client.call("POST", "/api/v1/workflows/nap/runs?wait=10", body={"input": {"seconds": 0.01}}, status=200)
    assert (run["status"], run["result"], run["sandbox"]) == ("succeeded", "rested", {"tier": TIERS[0], "isolation": "run"})
    refused = await client.call("POST", "/api/v1/workflows/nap/runs", body={"input": {"seconds": "long"}}, status=422)
    assert "seconds" in refused["errors"][0]["path"]
    await client.call("POST", "/api/v1/workflows/absent/runs", body={"input": {}}, status=404)


async def test_a_killed_executors_run_ends_on_its_second_attempt_in_the_same_trace(
    up: Up, client: Client, collector: Collector
) -> None:
    await client.put_file("work.py", WORKFLOWS)
    run = await client.call("POST", "/api/v1/workflows/nap/runs", body={"input": {"seconds": 3}}, status=202)
    await client.run(run["id"], "running")
    await collector.until(lambda: "publish run.started" in {one.name for one in collector.of(run["id"])})
    before = up.read()["services"]["executor"]
    os.kill(before, signal.SIGKILL)
    ended = await client.run(run["id"], "succeeded")
    assert (ended["attempt"], ended["result"]) == (2, "rested")
    assert up.read()["services"]["executor"] not in {None, before}
    await collector.until(lambda: written(found := collector.of(run["id"]), "run.succeeded", 1) and is_complete(found))
    spans = collector.of(run["id"])
    check_whole(spans, "POST /api/v1/workflows/{name}/runs")
    first, second = (one for one in spans if one.name == "attempt nap")
    assert (first.attributes["millrace.run.attempt"], first.failed, first.attributes["error.type"]) == (1, True, "worker_lost")
    assert (second.attributes["millrace.run.attempt"], second.failed, second.parent) == (2, False, first.parent)
    assert {one.service for one in spans} >= {"millrace-gateway", "millrace-executor", "millrace-logs"}


async def test_a_delivery_without_a_workflow_is_listed_and_runs_after_a_retry(client: Client) -> None:
    source = await client.call("PUT", "/api/v1/sources/repo", body={"adapter": "github", "settings": {"secret": SECRET}})
    assert SECRET not in str(source)
    subscription = {"source": "repo", "event": "push", "workflow": "later"}
    await client.call("PUT", "/api/v1/subscriptions/push", body=subscription)
    status, answer = await client.github(source["url"], SECRET, b'{"ref": "refs/heads/main"}')
    assert status == 202
    delivery = await client.delivery(answer["id"], "unroutable")
    assert delivery["reason"] == "there is no workflow 'later'"
    await client.put_file(
        "later.py", WORKFLOWS.replace(b"on-push", b"later").replace(b'"nap"', b'"nap2"').replace(b'"who"', b'"who2"')
    )
    await client.call("POST", f"/api/v1/deliveries/{answer['id']}/retry")
    delivery = await client.delivery(answer["id"], "routed")
    run = await client.run(delivery["runs"][0]["id"], "succeeded")
    assert run["result"] == "refs/heads/main"


async def test_the_whole_chain_is_one_query(client: Client) -> None:
    await client.put_file("work.py", WORKFLOWS)
    source = await client.call("PUT", "/api/v1/sources/chain", body={"adapter": "github", "settings": {"secret": SECRET}})
    subscription = {"source": "chain", "event": "push", "workflow": "nap", "input": {"seconds": 0.01}}
    await client.call("PUT", "/api/v1/subscriptions/chain", body=subscription)
    _, answer = await client.github(source["url"], SECRET, b'{"ref": "refs/heads/main"}')
    query = quote(f"correlation_id:{answer['id']}")
    expected = {
        "webhook.received", "event.accepted", "event.routed", "run.requested", "run.started", "line.logged", "run.succeeded",
    }  # fmt: skip

    async def complete() -> object:
        items = (await client.call("GET", f"/api/v1/logs?q={query}&order=asc"))["items"]
        return items if {item["type"] for item in items} == expected else None

    items = await eventually(complete)
    assert isinstance(items, list)
    ids = {item["id"] for item in items}
    assert [item["type"] for item in items if item["causation_id"] not in ids] == ["webhook.received"]
    found = (await client.call("GET", f"/api/v1/logs?q={quote('napping type:line.logged')}"))["items"]
    assert answer["id"] in {item["correlation_id"] for item in found}


async def test_a_workflow_gets_its_organizations_token_and_nothing_shows_it(up: Up, client: Client) -> None:
    await client.put_file("work.py", WORKFLOWS)
    token = "tok_3f9c0d2b7a1e"
    await client.call("PUT", "/api/v1/connections/halopsa", body={"grant": "token", "token": token})
    run = await client.call("POST", "/api/v1/workflows/who/runs?wait=15", body={"input": {}}, status=200)
    assert run["result"] == {"name": "halopsa", "length": len(token)}

    async def audited() -> object:
        return (await client.call("GET", f"/api/v1/audit?q={quote('type:audit.given')}"))["items"]

    assert await eventually(audited)
    everything = (await client.call("GET", "/api/v1/logs?org=*&limit=1000"))["items"]
    assert everything
    assert token not in str(everything)
    for log in (up.data / "logs").glob("*.log"):
        assert token not in await asyncio.to_thread(log.read_text, "utf-8", "replace"), log


async def test_bad_requests_say_what_is_wrong(client: Client) -> None:
    source = await client.call("PUT", "/api/v1/sources/strict", body={"adapter": "github", "settings": {"secret": SECRET}})
    status, answer = await client.github(source["url"], "wrong", b"{}")
    assert (status, answer["status"]) == (401, 401)
    missing = source["url"].rpartition("/")[0] + "/nobody"
    assert (await client.github(missing, SECRET, b"{}"))[0] == 404
    nothing = await client.call("PUT", "/api/v1/sources/open", body={"adapter": "github", "settings": {}}, status=422)
    assert "secret" in str(nothing)
    broken = await client.put_file("broken.py", b"def f(:\n")
    assert broken["problems"][0]["line"] == 1


async def test_readiness_names_the_sandbox_tier(client: Client) -> None:
    ready = await client.call("GET", "/readyz")
    assert (ready["ready"], ready["degraded"]) == (True, [])
    assert (ready["sandbox"]["tier"], ready["sandbox"]["refused"]) == (TIERS[0], {})
    assert {*ready["sandbox"]["held"], *ready["sandbox"]["unheld"]} == {"memory", "pids", "cpu"}
    assert set(ready["services"]) == {"events", "executor", "oauth", "logs"}
