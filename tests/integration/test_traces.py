"""A trace has everything of a chain, from the webhook to the last archived row; what is secret is in none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
import msgspec
import pytest
import pytest_asyncio

from shared import trace_settings, tracing
from shared.config import Environment
from shared.exporting import Exporter
from shared.health import Health
from shared.metrics import exposition
from shared.traceparent import SpanContext
from tests.integration.test_egress_clients import Closed
from tests.support.client import Client
from tests.support.collector import Collected, Collector, check_whole, collecting, is_complete, written
from tests.support.inside import running
from tests.support.places import open_folder
from tests.support.river import sandbox_settings
from tests.support.servers import Servers

SECRET = "It's a Secret to Everybody"
HIDDEN = "hunter2-hunter2-hunter2"
WORKFLOWS = b"""
import asyncio
import time
import urllib.request

from millrace import run, runs, secrets, sleep, step, trace, workflow


@workflow(name="child")
def child() -> str | None:
    return trace.traceparent


@workflow(name="whole", retries=1, retry_delay=0.05)
async def whole(event: dict) -> dict:
    with trace.span("outer", of=1):
        with trace.span("inner", hidden=secrets.get("hidden"), many="x" * 5000):
            inner = trace.traceparent
    seen = await step("look", lambda: trace.traceparent)
    try:
        urllib.request.urlopen("http://127.0.0.1:9/never?token=unseen-token")
    except OSError:
        pass
    answer = await runs.call("child")
    await sleep(1.2)
    return {"id": trace.id, "inner": inner, "step": seen, "child": answer}


@workflow(name="nap")
def nap(seconds: float) -> str | None:
    time.sleep(seconds)
    return trace.id


@workflow(name="floods")
def floods() -> None:
    for number in range(250):
        with trace.span(f"number {number}", **{f"field{each}": each for each in range(50)}):
            pass
    with trace.span("x" * 200, large=2**64 - 1, nan=float("nan"), odd=object(), half="\\ud800", nul="a\\0b"):
        pass
"""
STRANGER = "00-11111111111111111111111111111111-2222222222222222-01"


class Traced(msgspec.Struct, frozen=True):
    """All services in this process, which traces, and the collector of its spans."""

    client: Client
    collector: Collector
    headers: dict[str, str]
    health: Health


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def traced(servers: Servers) -> AsyncIterator[Traced]:
    async with AsyncExitStack() as stack:
        data = stack.enter_context(open_folder())
        place = await stack.enter_async_context(servers.place())
        collector = await stack.enter_async_context(collecting())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in collector.environment.items():
            patch.setenv(name, value)
        patch.setattr("services.executor.app.Children", Closed)
        settings = trace_settings.read(Environment())
        assert settings is not None
        exporter, health = Exporter("test", settings), Health("test")
        exporter.start(health)
        stack.push_async_callback(asyncio.to_thread, exporter.close)
        executor = {"MILLRACE_DATA": str(data / "executor"), **sandbox_settings()}
        for service in ("executor", "events", "oauth", "logs"):
            await stack.enter_async_context(running(place, service, **(executor if service == "executor" else {})))
        gateway = await stack.enter_async_context(running(place, "gateway", MILLRACE_PORT="0"))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        key = place.credentials.admin_key
        client = Client(session, {"url": gateway.health.document()["url"], "admin_key": key})
        assert (await client.put_file("work.py", WORKFLOWS))["problems"] == []
        yield Traced(client, collector, {"Authorization": f"Bearer {key}"}, health)


@pytest.fixture
def client(traced: Traced) -> Client:
    return traced.client


@pytest.fixture
def collector(traced: Traced) -> Collector:
    return traced.collector


def path_to(spans: list[Collected], one: Collected) -> list[str]:
    known = {span.id: span for span in spans}
    path = [one.name]
    while one.parent:
        one = known[one.parent]
        path.insert(0, one.name)
    return path


async def test_one_webhook_is_one_trace_to_its_last_row(client: Client, collector: Collector) -> None:
    await client.call("PUT", "/api/v1/secrets/hidden", body={"value": HIDDEN})
    source = await client.call("PUT", "/api/v1/sources/repo", body={"adapter": "github", "settings": {"secret": SECRET}})
    await client.call("PUT", "/api/v1/subscriptions/push", body={"source": "repo", "event": "push", "workflow": "whole"})
    status, answer = await client.github(f"{source['url']}?token=unseen-query", SECRET, b'{"ref": "unseen-body"}')
    assert status == 202
    chain = answer["id"]
    await collector.until(lambda: written(found := collector.of(chain), "run.succeeded", 2) and is_complete(found))
    spans = collector.of(chain)
    check_whole(spans, "POST /hooks/{id}")
    paths = {one.name: path_to(spans, one) for one in spans}
    routed = [
        "POST /hooks/{id}", "publish webhook.received", "process webhook.received", "publish event.accepted",
        "process event.accepted", "publish run.requested",
    ]  # fmt: skip
    assert paths["write webhook.received"] == [*routed[:2], "write webhook.received"]
    attempt = [*routed, "attempt whole"]
    for name in ("queue", "process run.requested"):
        assert [*routed, name] in [path_to(spans, one) for one in spans if one.name == name]
    for name in ("publish run.started", "sandbox", "outer", "step look", "CONNECT"):
        assert paths[name][:-1] == attempt or [*attempt, name] in [path_to(spans, one) for one in spans if one.name == name], name
    assert [*attempt, "sandbox", "publish run.step_completed"] in [path_to(spans, one) for one in spans]
    assert paths["inner"] == [*attempt, "outer", "inner"]
    asked, given = [one for one in spans if one.name == "oauth/secret"][:2]
    assert path_to(spans, asked) == [*attempt, "sandbox", "oauth/secret"]
    assert (asked.kind, given.kind, given.parent) == ("client", "server", asked.id)
    assert paths["attempt child"] == [*attempt, "sandbox", "publish run.requested", "attempt child"]
    # It waited for the time, and for its child, if that took so long.
    attempts = [one for one in spans if one.name == "attempt whole"]
    assert [one.attributes["millrace.run.attempt"] for one in attempts] in ([1, 2], [1, 2, 3])
    if len(attempts) == 3:
        assert path_to(spans, attempts[1]) == [*attempt, "wait event", "publish run.resumed", "attempt whole"]
    assert path_to(spans, attempts[-1])[-4:] == ["attempt whole", "wait time", "publish run.resumed", "attempt whole"]
    run = (await client.delivery(chain, "routed"))["runs"][0]["id"]
    result = (await client.run(run, "succeeded"))["result"]
    (inner,), (look,), (started,) = ([one for one in spans if one.name == name] for name in ("inner", "step look", "attempt child"))
    # What is replayed is told by no span.
    trace = chain.replace("-", "")
    assert result["id"] == trace
    assert result["inner"] == f"00-{trace}-{attempts[-1].id}-01"
    assert result["step"] == f"00-{trace}-{look.id}-01"
    assert result["child"] == f"00-{trace}-{started.id}-01"
    assert inner.attributes["hidden"] == "***"
    assert len(inner.attributes["many"]) == 1000
    for unseen in (HIDDEN, SECRET, "unseen-query", "unseen-body", "unseen-token", source["url"].rsplit("/", 1)[1]):
        assert unseen.encode() not in collector.raw, unseen
    connects = [one for one in spans if one.name == "CONNECT"]
    assert [(one.failed, one.attributes["server.address"], one.attributes["server.port"]) for one in connects] == [
        (True, "127.0.0.1", 9)
    ] * len(attempts)


async def test_a_caller_with_a_key_is_the_parent_and_the_chain_points_there(traced: Traced, collector: Collector) -> None:
    key = traced.headers | {"traceparent": STRANGER}
    url = f"{traced.client.url}/api/v1/workflows/nap/runs?wait=60"
    async with aiohttp.ClientSession() as session, session.post(url, json={"input": {"seconds": 0}}, headers=key) as answer:
        run = await answer.json()
        told = answer.headers["traceresponse"].split("-")
    assert (run["result"], told[1], told[3]) == ("1" * 32, "1" * 32, "01")
    await collector.until(lambda: written(collector.of("1" * 32), "run.succeeded", 1))
    (request,) = await collector.until(lambda: [one for one in collector.of("1" * 32) if one.parent == "2" * 16])
    assert (request.id, request.kind) == (told[2], "server")
    await collector.until(lambda: collector.of(run["id"]))
    (pointer,) = collector.of(run["id"])
    assert (pointer.name, pointer.links) == ("chain", [("1" * 32, request.id)])


async def test_a_stranger_is_linked_to_and_decides_nothing(client: Client, collector: Collector) -> None:
    theirs = "00-33333333333333333333333333333333-4444444444444444-01"
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{client.url}/hooks/unknown", headers={"traceparent": theirs}) as answer:
            assert answer.status == 404
            trace = answer.headers["traceresponse"].split("-")[1]
            assert trace == answer.headers["X-Request-Id"].replace("-", "")
        async with session.get(f"{client.url}/api/v1/runs", headers={"traceparent": theirs}) as answer:
            assert answer.status == 401
    (root,) = await collector.until(lambda: [one for one in collector.of(trace) if not one.parent])
    assert root.links == [("3" * 32, "4" * 16)]
    assert not collector.of("3" * 32)


@pytest.mark.parametrize(
    "given",
    [
        ["00-" + "0" * 32 + "-2222222222222222-01"],
        ["00-11111111111111111111111111111111-" + "0" * 16 + "-01"],
        ["ff-11111111111111111111111111111111-2222222222222222-01"],
        ["00-1111111111111111111111111111111-2222222222222222-01"],
        ["00-11111111111111111111111111111111-2222222222222222-01-more"],
        ["01-" + "5" * 32 + "-2222222222222222-01-" + "x" * 5000],
        ["x" * 7000],
        ["00-" + "A" * 32 + "-2222222222222222-01"],
        ["00-" + "6" * 32 + "-2222222222222222-01", "00-" + "7" * 32 + "-2222222222222222-01"],
    ],
)
async def test_what_is_no_traceparent_is_as_good_as_none(traced: Traced, collector: Collector, given: list[str]) -> None:
    headers = [*traced.headers.items(), *(("traceparent", one) for one in given)]
    async with aiohttp.ClientSession() as session, session.get(f"{traced.client.url}/api/v1/adapters", headers=headers) as answer:
        assert answer.status == 200
        trace = answer.headers["traceresponse"].split("-")[1]
        assert trace == answer.headers["X-Request-Id"].replace("-", "")
    # What a request is made of ends before it, and so is sent before it.
    await collector.until(lambda: "GET /api/v1/adapters" in {one.name for one in collector.of(trace)})
    check_whole(collector.of(trace), "GET /api/v1/adapters")


async def test_a_flood_of_an_authors_spans_is_bounded_and_harms_no_others(client: Client, collector: Collector) -> None:
    run = await client.call("POST", "/api/v1/workflows/floods/runs?wait=60", body={"input": {}}, status=200)
    assert run["status"] == "succeeded", run
    # The attempt ends after what it is made of, and is sent after it.
    await collector.until(lambda: "attempt floods" in {one.name for one in collector.of(run["id"])})
    spans = [one for one in collector.of(run["id"]) if one.name.startswith("number ")]
    assert len(spans) == 200
    assert all(len(one.attributes) == 32 for one in spans)


async def test_spans_that_find_no_room_are_dropped_and_counted_and_hold_nothing_up(traced: Traced) -> None:
    facts, here = traced.health.document, SpanContext(1, 1)
    assert facts()["traces"]["dropped"] == 0
    assert facts()["traces"]["exported"] > 0
    traced.collector.go_on.clear()
    try:
        # Those of one batch may be on their way, and so many wait as there is room for.
        for _ in range(5000):
            tracing.child(here, "too many").finish()
        dropped = facts()["traces"]["dropped"]
        assert 5000 - 2048 - 512 <= dropped <= 5000
        await traced.client.call("GET", "/api/v1/adapters")
    finally:
        traced.collector.go_on.set()
    await traced.collector.until(lambda: len(traced.collector.of("1".zfill(32))) == 5000 - dropped)
    told = exposition(traced.health)
    assert all(f"millrace_traces_{count}_total{{".encode() in told for count in ("exported", "dropped", "failed"))


async def test_a_process_ends_in_time_where_no_collector_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(tracing, "_tracer", None)  # to be as it was, whatever happens in between
    settings = trace_settings.read(Environment())
    assert settings is not None
    exporter = Exporter("test", settings)
    exporter.start(Health("test"))
    tracing.child(SpanContext(1, 1), "never taken").finish()
    await asyncio.to_thread(exporter.close)
    assert exporter.exported == 0
    assert not tracing.is_on()
