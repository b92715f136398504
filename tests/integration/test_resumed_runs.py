"""A run that ended without success goes on in another one, which repeats nothing that is recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from deploy.positions import administrator
from services.executor.runs.claim import Claim
from shared.errors import Unavailable
from shared.messages import RunStepCompleted
from shared.pull import api_request
from shared.questions.runs import GetRun, RunView
from shared.runs import ENDED
from tests.integration.test_gateway import Client, gateway
from tests.support.inside import eventually
from tests.support.river import COUNT, Outside, river
from tests.support.servers import Place

BEFORE = (
    COUNT
    + b"""
from millrace import runs, step, wait_for, workflow


@workflow
async def sync(folder: str, amount: int = 1) -> dict:
    count(folder, "attempts")
    fetched = await step("fetch", count, folder, "fetch")
    given = await wait_for("go")
    child = await runs.astart("child", {"folder": folder})
    if amount < 10:
        raise LookupError(f"{amount} is too little")
    stored = await step("store", count, folder, "store")
    return {"fetched": fetched, "given": given.data, "child": child, "stored": stored}


@workflow
async def child(folder: str) -> int:
    await wait_for("child")
    return count(folder, "child")
"""
)
# What was recorded fits, and then it goes on another way.
MENDED = BEFORE.replace(
    b"""    if amount < 10:
        raise LookupError(f"{amount} is too little")
    stored =""",
    b"""    given = await wait_for("more")
    ended = await runs.wait(child)
    stored =""",
).replace(b'"child": child,', b'"child": ended,')


@pytest.fixture
async def outside(place: Place, data: Path) -> AsyncIterator[Outside]:
    async with river(place, data) as outside:
        assert (await outside.put_file("flows.py", BEFORE)).problems == []
        yield outside


@pytest.fixture
async def client(place: Place, outside: Outside) -> AsyncIterator[Client]:
    async with gateway(place) as client:
        yield client


async def ended(outside: Outside, run: str) -> RunView:
    return await outside.run(run, *ENDED)


async def failed(outside: Outside, folder: Path) -> str:
    """Return a run that failed after a step, a wait and the start of a child, with a signal that it had not come to."""
    run = await outside.request("sync", input={"folder": str(folder)})
    await outside.signal(run, "more", 2)
    await outside.signal(run, "go", 1)
    assert (await ended(outside, run)).status == "failed"
    return run


async def resume(client: Client, run: str, **body: Any) -> str:
    got = await client("POST", f"/api/v1/runs/{run}/resume", json=body)
    assert (got.status, got.headers["Location"]) == (202, f"/api/v1/runs/{got.json['id']}"), got.json
    assert got.json["resumes"] == run
    return str(got.json["id"])


def done(folder: Path, name: str) -> int:
    return len((folder / name).read_text())


async def test_mended_code_goes_on_where_a_run_failed(outside: Outside, client: Client, shared_folder: Path) -> None:
    run = await failed(outside, shared_folder)
    assert (await outside.put_file("flows.py", MENDED)).problems == []
    second = await resume(client, run)
    assert await resume(client, run) == second, "the same request is the same run"

    async def waits_for_child() -> str | None:
        view: RunView = await outside.bus.ask(GetRun(org="default", id=second))
        return view.waits[0].name if view.waits and view.waits[0].kind == "run" else None

    asked = await eventually(waits_for_child)
    # The child tells its end to the run that asked for it, which has ended.
    await outside.signal(str(asked), "child")
    view = await ended(outside, second)
    assert (view.status, view.resumes, view.error) == ("succeeded", run, None)
    assert view.result == {"fetched": 1, "given": 2, "child": 1, "stored": 1}
    assert (done(shared_folder, "fetch"), done(shared_folder, "store")) == (1, 1)
    steps = (await client("GET", f"/api/v1/runs/{second}/steps")).json["items"]
    assert [(one["kind"], one["name"]) for one in steps][:3] == [("step", "fetch"), ("signal", "go"), ("start", "child")]
    assert [one["attempt"] > 0 for one in steps] == [False] * 3 + [True] * (len(steps) - 3)
    other = await client("POST", f"/api/v1/runs/{run}/resume", json={"version": "same"})
    assert (other.status, second in other.json["detail"]) == (409, True)
    assert (await client("POST", f"/api/v1/runs/{second}/resume", json={})).status == 409, "it succeeded"


async def test_a_changed_input_the_same_code_and_a_step_that_is_forgotten(
    outside: Outside, client: Client, shared_folder: Path
) -> None:
    run = await failed(outside, shared_folder)
    unknown = await client("POST", f"/api/v1/runs/{run}/resume", json={"forget": ["fetch", "none"]})
    assert (unknown.status, unknown.json["errors"]) == (422, [{"path": "forget", "message": "nothing is recorded of 'none'"}])
    wrong = await client("POST", f"/api/v1/runs/{run}/resume", json={"input": {"amount": "many"}})
    assert (wrong.status, wrong.json["errors"][0]["path"]) == (422, "input.amount")
    assert (await outside.put_file("flows.py", MENDED)).problems == []
    second = await ended(outside, await resume(client, run, version="same", input={"amount": 5}))
    assert (second.status, second.error and second.error.message) == ("failed", "5 is too little")
    # The second one has what the first one had, and can be gone on with as well.
    third = await ended(outside, await resume(client, second.id, version="same", input={"amount": 10}, forget=["fetch"]))
    assert (third.status, third.result["fetched"], third.result["given"]) == ("succeeded", 2, 1)
    assert done(shared_folder, "fetch") == 2


async def test_code_that_took_another_way_is_told_at_once(outside: Outside, client: Client, shared_folder: Path) -> None:
    run = await failed(outside, shared_folder)
    moved = BEFORE.replace(b'await step("fetch"', b'await step("before", count, folder, "before") + await step("fetch"')
    assert (await outside.put_file("flows.py", moved)).problems == []
    view = await ended(outside, await resume(client, run))
    assert view.error is not None
    assert (view.status, view.error.type) == ("failed", "OrderChanged")
    assert "step 'before' is called where step 'fetch' was" in view.error.message
    assert not (shared_folder / "before").exists()


async def test_a_worker_that_stops_half_way_and_a_bus_that_has_forgotten_lose_nothing_of_a_record(
    place: Place, outside: Outside, client: Client, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await failed(outside, shared_folder)

    async def is_in_rows() -> bool:
        return len((await client("GET", f"/api/v1/runs/{run}/steps")).json["items"]) == 3

    await eventually(is_in_rows)
    async with administrator(place.nats_url("admin")) as admin:
        await api_request(admin, "$JS.API.STREAM.PURGE.RUNS", {"filter": f"run.{run}.>"})
    tried: list[str] = []
    step = Claim.step

    async def interrupted(self: Claim, message: RunStepCompleted) -> None:
        tried.append(message.name)
        if len(tried) == 2:
            raise Unavailable("the worker is about to stop")
        await step(self, message)

    monkeypatch.setattr(Claim, "step", interrupted)
    view = await ended(outside, await resume(client, run, version="same", input={"amount": 10}))
    assert (view.status, view.attempt, view.result["given"], done(shared_folder, "fetch")) == ("succeeded", 2, 1, 1)
    assert tried == ["fetch", "go", "go", "child", "store"]


@pytest.mark.parametrize("is_there", [True, False])
async def test_only_a_run_of_ones_own_that_has_ended_is_resumed(outside: Outside, client: Client, is_there: bool) -> None:
    run = await outside.request("child", input={"folder": "/nowhere"})
    if is_there:
        got = await client("POST", f"/api/v1/runs/{run}/resume", json={})
        assert (got.status, "has not ended" in got.json["detail"]) == (409, True)
    else:
        assert (await client("POST", f"/api/v1/runs/{run}/resume?org=other", json={})).status == 404


PAYS = (
    COUNT
    + b"""
from millrace import step, workflow


@workflow
async def pay(event: dict) -> int:
    charged = await step("charge", count, event["data"]["folder"], "charged")
    raise LookupError("there is no such customer")
"""
)


async def test_what_resumes_the_run_of_a_delivery_is_of_its_chain_and_counts_in_its_place(
    outside: Outside, client: Client, shared_folder: Path
) -> None:
    assert (await outside.put_file("pay.py", PAYS)).problems == []
    source = await outside.source()
    await outside.subscription(name="pays", workflow="pay")
    id_ = await outside.webhook(source, {"folder": str(shared_folder)})
    (failed,) = (await outside.delivery(id_, "routed")).runs
    await ended(outside, failed.id)
    mended = PAYS.replace(b'raise LookupError("there is no such customer")', b"return charged")
    assert (await outside.put_file("pay.py", mended)).problems == []
    got = await client("POST", f"/api/v1/runs/{failed.id}/resume", json={})
    assert (got.status, got.json.get("repeated", False)) == (202, False)
    again = await client("POST", f"/api/v1/runs/{failed.id}/resume", json={})
    assert (again.json["id"], again.json["repeated"]) == (got.json["id"], True)
    second = await ended(outside, got.json["id"])
    assert (second.status, second.delivery) == ("succeeded", id_)
    earlier = (await client("GET", f"/api/v1/runs/{failed.id}")).json
    assert (earlier["resumed_by"], earlier["correlation_id"]) == (second.id, second.correlation_id)

    async def told() -> Any:
        runs = (await outside.delivery(id_, "routed")).runs
        return [(one.id, one.status, one.resumes) for one in runs] if len(runs) == 2 and runs[1].status == "succeeded" else None

    assert await eventually(told) == [(failed.id, "failed", None), (second.id, "succeeded", failed.id)]
    refused = await client("POST", f"/api/v1/deliveries/{id_}/retry", json=None)
    assert refused.status == 409, refused.json
    assert done(shared_folder, "charged") == 1
