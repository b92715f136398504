"""What is seen of a run over HTTP: what it waits for, its attempts, what it recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest_asyncio

from services.executor.projections import projected
from services.executor.questions import QUESTIONS
from services.executor.runs.concurrency import ConcurrencySlots
from services.executor.runs.groups import WorkerGroups
from services.executor.runs.looks import Looks
from services.executor.runs.purge import purge
from services.executor.runs.recent import Recent
from services.executor.store import ExecutorStore
from shared.bus import Bus
from shared.db import open_engine
from shared.envelope import new_id, rfc3339, utc_now
from shared.health import Health
from shared.messages import Audited
from shared.projection import Projection
from shared.questions.runs import GetRun, ListAttempts, ListLines, ListStates, ListSteps
from tests.integration import test_durable, test_waiting
from tests.integration.test_gateway import Client, gateway, stream
from tests.integration.test_runs import started
from tests.support.inside import bus_of, eventually, running
from tests.support.places import open_folder
from tests.support.river import Outside, river
from tests.support.servers import Place, Servers
from tests.support.statements import counting

WORKFLOWS = b"""
from millrace import log, sleep, step, wait_for, workflow


@workflow
def large(bytes: int, times: int) -> None:
    for number in range(times):
        step.sync(f"s{number}", str.ljust, str(number), bytes)


@workflow
def talk(lines: int, length: int = 1) -> str:
    for number in range(lines):
        log.info("said", number=number, text="x" * length)
    return "talked"


@workflow
async def between() -> None:
    await step("first", int, 1)
    await wait_for("go")
    await sleep(1.5)
    await step("second", int, 2)


@workflow
def stumble(lines: int) -> None:
    for number in range(lines):
        log.info("said", number=number)
    raise ValueError("no")
"""


class House:
    """A gateway before the services of a river."""

    def __init__(self, client: Client, outside: Outside, place: Place) -> None:
        self.client = client
        self.outside = outside
        self.place = place

    async def run(self, workflow: str, status: str | None = None, **body: Any) -> dict[str, Any]:
        """Ask for a run; return it when it has come to a status."""
        got = await self.client("POST", f"/api/v1/workflows/{workflow}/runs", json=body)
        assert got.status == 202, got.json
        return got.json if status is None else await self.come_to(got.json["id"], status)

    async def caught(self, workflow: str, **body: Any) -> dict[str, Any]:
        """Ask for runs until one is seen while it waits: a short wait may end unseen."""

        async def seen() -> Any:
            run = (await self.run(workflow, **body))["id"]

            async def settled() -> Any:
                view = await self.get(f"/runs/{run}")
                return view if view["status"] in {"waiting", "succeeded"} else None

            view: Any = await eventually(settled)
            return view if view["status"] == "waiting" else None

        found = await eventually(seen)
        assert isinstance(found, dict)
        return found

    async def come_to(self, run: str, status: str) -> dict[str, Any]:
        async def settled() -> Any:
            view = await self.get(f"/runs/{run}")
            return view if view["status"] == status else None

        found = await eventually(settled)
        assert isinstance(found, dict)
        return found

    async def get(self, path: str, status: int = 200) -> Any:
        got = await self.client("GET", f"/api/v1{path}")
        assert got.status == status, got.body
        return got.json

    @asynccontextmanager
    async def executor_bus(self) -> AsyncIterator[Bus]:
        async with bus_of(self.place, "executor") as bus:
            yield bus


@asynccontextmanager
async def house(place: Place, data: Path, **executor: str) -> AsyncIterator[House]:
    async with river(place, data, **executor) as outside, gateway(place) as client:
        for name, code in (("here", WORKFLOWS), ("waiting", test_waiting.WORKFLOWS), ("durable", test_durable.WORKFLOWS)):
            assert (await outside.put_file(f"{name}.py", code)).problems == []
        yield House(client, outside, place)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def home(servers: Servers) -> AsyncIterator[House]:
    with open_folder() as folder:
        async with servers.place() as place, house(place, folder, MILLRACE_SLOTS="1") as made:
            yield made


async def test_a_run_says_what_it_is_blocked_on_and_nothing_once_it_goes_on(home: House, shared_folder: Path) -> None:
    folder = str(shared_folder)
    signal = await home.run("approval", "waiting", input={"timeout": 600})
    assert signal["blocked_on"] == "signal"
    assert signal["waits"] == [{"kind": "signal", "name": "approval", "until": signal["until"], "where": None, "values": {}}]
    assert signal["until"] > signal["requested_at"]

    retry = await home.run("again-tomorrow", "waiting")
    assert (retry["blocked_on"], retry["waits"], retry["until"] > retry["requested_at"]) == ("retry", [], True)

    nap = await home.caught("nap", input={"folder": folder})
    assert (nap["blocked_on"], nap["waits"][0]["kind"], nap["waits"][0]["until"]) == ("time", "sleep", nap["until"])

    parent = await home.caught("parent", input={"folder": folder, "children": 1})
    assert parent["blocked_on"] == "event"
    child = await home.get(f"/runs/{parent['waits'][0]['name']}")
    assert (parent["waits"][0]["kind"], child["parent"], child["hops"]) == ("run", parent["id"], 1)

    at = rfc3339(utc_now() + timedelta(hours=1))
    later = await home.run("hurry", "delayed", run_at=at)
    assert (later["blocked_on"], later["until"], later["run_at"], later["waits"]) == ("time", at, at, [])

    ended = [await home.come_to(nap["id"], "succeeded"), await home.come_to(parent["id"], "succeeded")]
    assert [(one["blocked_on"], one["until"], one["waits"]) for one in ended] == [(None, None, [])] * 2


async def test_who_waits_in_vain_is_told_how_the_run_is(home: House) -> None:
    async def waiting() -> Any:
        got = await home.client("POST", "/api/v1/workflows/approval/runs?wait=3", json={"input": {"timeout": 600}})
        return got if got.json["status"] == "waiting" else None

    got: Any = await eventually(waiting)
    assert (got.status, got.json["status"], got.json["blocked_on"]) == (202, "waiting", "signal")
    assert got.json["until"] == (await home.get(f"/runs/{got.json['id']}"))["until"]
    assert got.headers["Location"] == f"/api/v1/runs/{got.json['id']}"


async def test_runs_are_found_by_how_their_ids_begin(place: Place, data: Path) -> None:
    async with house(place, data) as home:
        ids = [(await home.run("talk", input={"lines": 1}))["id"] for _ in range(3)]
        for id_ in ids:
            await home.outside.recorded(id_)
        for length in (36, 30, 8, 1):
            found = [run["id"] for run in (await home.get(f"/runs?id={ids[0][:length]}"))["items"]]
            assert sorted(found) == sorted(id_ for id_ in ids if id_.startswith(ids[0][:length]))
        assert (await home.get("/runs?id=zz"))["items"] == []
        assert (await home.get("/runs?id=%25"))["items"] == []


async def test_a_queued_run_waits_for_a_worker_and_one_at_a_full_key_for_its_turn(home: House, shared_folder: Path) -> None:
    given = {"folder": str(shared_folder), "name": "a"}
    first = await home.run("one_at_a_time", input=given)
    await started(shared_folder)
    going_on = await home.get(f"/runs/{first['id']}")
    assert (going_on["status"], going_on["blocked_on"]) == ("running", None)
    queued = await home.run("hurry", deadline=600)
    assert (await home.get(f"/runs/{queued['id']}"))["blocked_on"] == "worker"
    (shared_folder / "go").touch()
    await home.come_to(queued["id"], "succeeded")


async def test_a_run_that_waits_for_its_turn_says_whose_it_is(place: Place, data: Path, shared_folder: Path) -> None:
    async with house(place, data) as home:
        given = {"folder": str(shared_folder), "name": "a"}
        first = await home.run("one_at_a_time", input=given)
        await started(shared_folder)
        second = await home.run("one_at_a_time", "waiting", input=given)
        assert (second["blocked_on"], second["slot_held_by"]) == ("concurrency", [first["id"]])
        assert second["concurrency_key"] == (await home.get(f"/runs/{first['id']}"))["concurrency_key"] is not None
        cancelled = await home.client("POST", f"/api/v1/runs/{second['id']}/cancel")
        assert cancelled.status == 202
        ended = await home.come_to(second["id"], "cancelled")
        assert (ended["blocked_on"], ended["slot_held_by"]) == (None, [])
        (shared_folder / "go").touch()
        await home.come_to(first["id"], "succeeded")


async def test_attempts_tell_how_each_ended(home: House, shared_folder: Path) -> None:
    run = await home.run("third", "succeeded", input={"folder": str(shared_folder)})
    path = f"/runs/{run['id']}/attempts"
    items = (await home.get(path))["items"]
    assert [(one["attempt"], one["status"]) for one in items] == [(1, "failed"), (2, "failed"), (3, "succeeded")]
    assert items[0]["error"]["message"] == "not yet: 1"
    assert items[0]["sandbox"] == run["sandbox"]
    first = await home.get(path + "?limit=2")
    rest = await home.get(f"{path}?limit=2&cursor={first['next_cursor']}")
    assert (first["items"] + rest["items"], rest["next_cursor"]) == (items, None)


async def test_steps_are_shown_while_a_run_waits_after_its_end_and_after_its_purge(home: House) -> None:
    run = (await home.run("between", "waiting"))["id"]
    path = f"/runs/{run}/steps"
    (first,) = (await home.get(path))["items"]
    assert {name: first[name] for name in ("kind", "name", "ordinal", "attempt", "result", "bytes")} == {
        "kind": "step",
        "name": "first",
        "ordinal": 0,
        "attempt": 1,
        "result": 1,
        "bytes": 1,
    }
    await home.outside.signal(run, "go")
    ended = await home.come_to(run, "succeeded")
    items = (await home.get(path))["items"]
    kinds = [("step", 1), ("signal", 1), ("sleep", 2), ("step", 3)]
    assert [(one["kind"], one["attempt"]) for one in items] == kinds
    assert [one["position"] for one in items] == sorted(one["position"] for one in items)
    assert first == items[0]
    assert all(ended["requested_at"] <= one["completed_at"] <= ended["finished_at"] for one in items)
    bare = (await home.get(path + "?results=false"))["items"]
    assert bare == [one | {"result": None} for one in items]
    await home.outside.recorded(run)
    async with home.executor_bus() as bus:
        await purge(bus.client, run, 2**52)
    assert await home.outside.types(run) == []
    assert (await home.get(path))["items"] == items


async def test_pages_of_large_steps_and_of_large_lines_fit_into_an_answer(home: House) -> None:
    run = await home.run("large", "succeeded", input={"bytes": 250_000, "times": 10})
    found: list[str] = []
    pages = 0
    cursor = ""
    while pages == 0 or cursor:
        page = await home.get(f"/runs/{run['id']}/steps?cursor={cursor}")
        found += [one["name"] for one in page["items"]]
        cursor = page["next_cursor"] or ""
        pages += 1
    assert (found, pages) == ([f"s{number}" for number in range(10)], 3)
    one = await home.get(f"/runs/{run['id']}/steps?results=false&limit=9")
    assert (len(one["items"]), one["items"][0]["bytes"]) == (9, 250_002)

    run = await home.run("talk", "succeeded", input={"lines": 60, "length": 60_000})

    async def told() -> bool:
        numbers: list[int] = []
        page: dict[str, Any] = {"next_cursor": "0"}
        while page["next_cursor"] is not None:
            page = await home.get(f"/runs/{run['id']}/logs?after={page['next_cursor']}")
            numbers += [one["n"] for one in page["items"]]
        return numbers == list(range(1, 61))

    await eventually(told)


async def test_what_cannot_be_asked_is_named(home: House) -> None:
    run = (await home.run("talk", "succeeded", input={"lines": 1}))["id"]
    for list_ in ("attempts", "steps"):
        path = f"/runs/{run}/{list_}"
        assert (await home.get(f"{path}?cursor=x", 400))["errors"][0]["path"] == "cursor"
        assert (await home.get(f"{path}?limit=0", 422))["errors"][0]["path"] == "limit"
        assert (await home.get(f"{path}?org=other", 404))["status"] == 404
        await home.get(f"/runs/{new_id()}/{list_}", 404)
        await home.get(f"/runs/a.b/{list_}", 404)
        assert (await home.client("GET", f"/api/v1{path}", headers={})).status == 401
    assert (await home.get(f"/runs/{run}/steps?results=maybe", 422))["errors"][0]["path"] == "results"
    for name, value in (("status", "done"), ("since", "monday"), ("until", "2026-01-01T00:00:00"), ("limit", "1001")):
        assert (await home.get(f"/runs?{name}={value}", 422))["errors"][0]["path"] == name
    for path in ("/runs?cursor=x", "/workflows?cursor=x", "/workspace/files?cursor=workflows%7Cx"):
        assert (await home.get(path, 400))["errors"][0]["path"] == "cursor"


async def test_a_signal_is_audited_and_refused_where_there_is_nobody_to_hear_it(home: House) -> None:
    run = (await home.run("approval", "waiting"))["id"]
    path = f"/api/v1/runs/{run}/signals"
    for asked, status in (
        (f"{path}/approval?org=other", 404),
        (f"/api/v1/runs/{new_id()}/signals/approval", 404),
        (f"{path}/{'x' * 201}", 422),
        (f"{path}/approval", 202),
        (f"{path}/approval", 202),
    ):
        assert (await home.client("POST", asked, json={"yes": True})).status == status, asked
    assert (await home.client("POST", f"{path}/approval", data=b"{")).status == 400
    assert (await home.client("POST", f"{path}/approval", headers={})).status == 401
    assert (await home.come_to(run, "succeeded"))["result"]["data"] == {"yes": True}
    assert (await home.client("POST", f"{path}/approval")).status == 409
    said = [one.data for one in await stream(home.place, "AUDIT") if b"signal" in bytes(one.data)]
    audited = [msgspec.json.decode(one, type=Audited) for one in said]
    assert [(one.target, one.outcome) for one in audited if one.verb == "signal" and one.target == run] == [
        (run, "not_found"),
        (run, "invalid"),
        (run, "ok"),
        (run, "ok"),
        (run, "malformed"),
        (run, "conflict"),
    ]


async def test_why_of_a_run_that_failed_ends_with_its_error_and_its_last_lines(home: House) -> None:
    async with running(home.place, "logs"):
        run = (await home.run("stumble", "failed", input={"lines": 12}))["id"]

        async def told() -> Any:
            why = await home.get(f"/runs/{run}/why")
            return why if len(why["lines"]) == 10 and why["items"] else None

        why = await eventually(told)
        assert isinstance(why, dict)
        assert (why["status"], why["reason"], why["error"]["type"], why["error"]["message"]) == (
            "failed",
            "error",
            "ValueError",
            "no",
        )
        assert [(line["message"], line["fields"]) for line in why["lines"]] == [("said", {"number": n}) for n in range(2, 12)]
        well = (await home.run("talk", "succeeded", input={"lines": 1}))["id"]
        why = await home.get(f"/runs/{well}/why")
        assert (why["status"], why["error"], why["lines"]) == (None, None, [])


async def test_why_tells_what_led_to_a_run_and_what_came_of_it(home: House, shared_folder: Path) -> None:
    async with running(home.place, "logs"):
        parent = await home.run("parent", "succeeded", input={"folder": str(shared_folder), "children": 2})
        path = f"/runs/{parent['id']}/why"

        async def told() -> Any:
            why = await home.get(path)
            runs = why["items"][0]["led_to"] if why["items"] else []
            return why if runs and [one["status"] for one in (runs[0], *runs[0]["led_to"])] == ["succeeded"] * 3 else None

        why = await eventually(told)
        assert isinstance(why, dict)
        (request,) = why["items"]
        assert (request["type"], request["leads_here"]) == ("request", True)
        (top,) = request["led_to"]
        assert (top["id"], [one["type"] for one in top["led_to"]]) == (parent["id"], ["run", "run"])
        assert (why["run"], why["path"], why["cut"]) == (parent["id"], [parent["id"]], False)
        child = top["led_to"][0]["id"]
        assert (await home.get(f"/runs/{child}/why"))["path"] == [parent["id"], child]
        assert (await home.get(path + "?limit=1"))["cut"] is True
        assert (await home.get(path + "?limit=0", 422))["errors"][0]["path"] == "limit"
        await home.get(path + "?org=other", 404)
        assert (await home.client("GET", f"/api/v1{path}", headers={})).status == 401


class Replica(msgspec.Struct, frozen=True):
    """What another executor has for answering; its projection of lines waits for the lock."""

    bus: Bus
    store: ExecutorStore
    concurrency: ConcurrencySlots
    lines: Projection
    recent: Recent
    looks: Looks
    groups: WorkerGroups


async def test_what_is_seen_of_a_run_takes_a_bounded_number_of_statements(home: House) -> None:
    run = (await home.run("talk", "succeeded", input={"lines": 300}))["id"]
    large = (await home.run("large", "succeeded", input={"bytes": 10, "times": 50}))["id"]
    for one in (run, large):
        await home.outside.recorded(one)

    async def written() -> bool:
        return len((await home.outside.bus.ask(ListLines(org="default", id=run))).items) == 300

    await eventually(written)
    url = home.place.database_url("executor")
    engine = open_engine(url, service="executor")
    try:
        async with home.executor_bus() as bus:
            part = next(one for one in projected(bus.client) if one.name == "lines")
            behind = Projection(
                client=bus.client, engine=engine, url=url, service="executor", projected=part, health=Health("executor")
            )
            store = ExecutorStore(engine)
            groups = WorkerGroups(bus.client, "other", (), store.queued_in_groups)
            recent = Recent(lambda *_: False)
            deps: Any = Replica(bus, store, ConcurrencySlots(engine), behind, recent, Looks(bus, store), groups)
            asked: list[tuple[Any, int]] = [
                (GetRun(org="default", id=run), 1),
                (ListStates(org="default", id=run), 1),
                (ListSteps(org="default", id=large), 2),
                (ListAttempts(org="default", id=run), 1),
                # The run's row, the checkpoint, the page, and whether anything comes after it.
                (ListLines(org="default", id=run, settled=True), 4),
            ]
            for question, most in asked:
                async with counting(engine) as statements:
                    answer = await QUESTIONS[type(question)](question, deps)
                assert len(statements) <= most, (question, statements)
            assert len(answer.items) == 300
    finally:
        await engine.dispose()
