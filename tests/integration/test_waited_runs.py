"""A run that somebody waits for is answered from its end's message, and as it is shown ever after."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.gateway import starts
from services.gateway.domain import succeeded
from shared.envelope import Sealed, open_message, rfc3339, utc_now
from shared.messages import RunRequested
from tests.integration.test_gateway import Client, gateway, stream
from tests.support.river import Outside, river
from tests.support.servers import Place

WORKFLOWS = b"""
import os

from millrace import runs, workflow


@workflow(isolation="workflow")
def adds(a: int, b: int) -> dict:
    return {"sum": a + b, "large": 2**53, "part": 0.1}


@workflow
def nothing() -> None:
    pass


@workflow(retries=3, retry_delay=0.01)
def third(folder: str) -> int:
    with open(f"{folder}/tries", "a") as file:
        file.write("x")
    if (tries := os.path.getsize(f"{folder}/tries")) < 3:
        raise LookupError("not yet")
    return tries


@workflow
def large() -> str:
    return "x" * 300_000


@workflow(concurrency="input.name")
def keyed(name: str) -> str:
    return name


@workflow
async def parent() -> dict:
    return await runs.call("keyed", {"name": "child"})


@workflow
def fails() -> None:
    raise LookupError("mine")
"""


@pytest.fixture
async def outside(place: Place, data: Path) -> AsyncIterator[Outside]:
    async with river(place, data) as outside:
        assert (await outside.put_file("flows.py", WORKFLOWS)).problems == []
        yield outside


@pytest.fixture
async def client(place: Place, outside: Outside) -> AsyncIterator[Client]:
    async with gateway(place) as client:
        yield client


async def shown(client: Client, run: str) -> Any:
    return (await client("GET", f"/api/v1/runs/{run}")).json


async def test_who_waits_for_a_run_gets_what_is_shown_of_it_without_anybody_being_asked(
    client: Client, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def asked(*_: Any) -> None:
        raise AssertionError("its end tells all")

    soon = rfc3339(utc_now() + timedelta(seconds=1.5))
    bodies: dict[str, list[dict[str, Any]]] = {
        "adds": [{"input": {"a": 1, "b": 2}}, {"input": {"a": 3, "b": 4}, "run_at": soon}, {"input": {"a": 5, "b": 6}}],
        "nothing": [{}, {"priority": "high", "timeout": 9, "deadline": 30}],
        "third": [{"input": {"folder": str(shared_folder)}}],
        "large": [{}],
        "keyed": [{"input": {"name": "a"}}, {"input": {"name": "a"}, "concurrency_key": "another"}],
        "parent": [{}],
    }
    monkeypatch.setattr(starts, "_caught_up", asked)
    monkeypatch.setattr(starts, "LOOKS", (30.0,))
    for workflow, several in bodies.items():
        for number, body in enumerate(several):
            key = client.key | ({"Idempotency-Key": f"{workflow}-{number}"} if number else {})
            got = await client("POST", f"/api/v1/workflows/{workflow}/runs?wait=30", json=body, headers=key)
            assert (got.status, got.json["status"]) == (200, "succeeded"), got.json
            assert got.json == await shown(client, got.json["id"])


async def test_a_repeated_request_and_a_run_that_does_not_succeed_are_answered_as_they_are_shown(client: Client) -> None:
    key = client.key | {"Idempotency-Key": "once"}
    for workflow, status in (("nothing", "succeeded"), ("fails", "failed")):
        path = f"/api/v1/workflows/{workflow}/runs?wait=30"
        first, again = [await client("POST", path, json={}, headers=key | {"Idempotency-Key": workflow}) for _ in range(2)]
        assert first.json == again.json == await shown(client, first.json["id"])
        assert (first.json["status"], first.json["fingerprint"] is not None) == (status, True)


async def test_whoever_asked_for_a_run_its_end_tells_what_is_shown_of_it(place: Place, client: Client, outside: Outside) -> None:
    first = (await client("POST", "/api/v1/workflows/parent/runs?wait=30", json={})).json["id"]
    again = (await client("POST", f"/api/v1/runs/{first}/rerun")).json["id"]
    assert (await outside.run(again, "succeeded")).rerun_of == first
    ended = await stream(place, "RUNS")
    requests = {one.subject: one for one in ended if one.type == "run.requested"}
    views = {
        end.subject: succeeded(Sealed(requests[end.subject], open_message(requests[end.subject], RunRequested), b""), end)
        for end in ended
        if end.type == "run.succeeded"
    }
    assert len(views) == 4
    assert {view.hops for view in views.values() if view is not None} == {0, 1}
    for run, view in views.items():
        assert msgspec.json.decode(msgspec.json.encode(view)) == await shown(client, run)


async def test_an_end_of_an_earlier_version_tells_too_little(place: Place, client: Client) -> None:
    run = (await client("POST", "/api/v1/workflows/nothing/runs?wait=30", json={})).json["id"]
    requested, end = [one for one in await stream(place, "RUNS") if one.subject == run and one.type != "run.started"]
    request = Sealed(requested, open_message(requested, RunRequested), b"")
    assert succeeded(request, end) is not None
    for lacking in ("started_at", "tier", "isolation"):
        told = msgspec.json.decode(end.data)
        del told[lacking]
        assert succeeded(request, msgspec.structs.replace(end, data=msgspec.Raw(msgspec.json.encode(told)))) is None
