"""What runs are given by real services: their organization's, the platform's where there is none, and nobody else's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from services.executor.runs import capabilities
from services.executor.workspaces import files
from shared.blobs import Blobs
from shared.bus import Bus
from shared.envelope import new_id, open_message
from shared.errors import NotFound
from shared.messages import Audited, FileChanged, RunRequested
from shared.questions.events import DeliveryView, GetDelivery
from shared.questions.files import FileView, GetFile, PutFile
from shared.questions.runs import GetRun, RunView
from shared.questions.workflows import FindWorkflow, WorkflowFound
from tests.integration.test_oauth_connections import putting, stored
from tests.integration.test_oauth_settings import secret, variable
from tests.support import resources
from tests.support.inside import bus_of, eventually, running
from tests.support.river import Outside, river
from tests.support.servers import Place

SECRET = "s3cret/walrus+9"
TOKEN = "tok_3f9c0d2b7a1e"
WORKFLOWS = b"""
from millrace import *
from millrace._runtime import channel


@workflow(name="everything")
async def everything(fail: bool = False) -> dict:
    halo = integrations.get("halopsa")
    key = await secrets.aget("api.key")
    print("key", key, "token", halo.token)
    kept = await files.awrite("data/out.txt", "counted")
    event = await step("tell", events.aemit, "orders", "order.paid", {"n": config.get("limit"), "key": key})
    if fail:
        raise RuntimeError(f"{key} {halo.token}")
    return {
        "config": halo.config, "entity": halo.entity_id, "token": halo.token, "key": key, "limit": config.get("limit"),
        "absent": variables.get("absent", default="none"), "event": event, "kept": kept.path,
        "lengths": [len(key), len(halo.token)],
    }


@workflow(name="asking")
def asking() -> dict:
    def tried(call, *args):
        try:
            return call(*args)
        except Refused as error:
            return [error.kind, str(error)]
    return {
        "variable": tried(config.get, "limit"), "secret": tried(secrets.get, "api.key"),
        "connection": tried(connections.get, "halo"), "integration": tried(integrations.get, "halopsa"),
        "event": tried(events.emit, "orders", "a"), "file": tried(files.read_text, "data/own.txt"),
        "shared": tried(files.read_text, "shared/text.txt"), "list": [one.path for one in files.list("data/")],
    }


@workflow(name="writing")
def writing(path: str, size: int = 3) -> list:
    try:
        return [files.write(path, b"x" * size).size]
    except Refused as error:
        return [error.kind, str(error)]


@workflow(name="deleting")
def deleting(path: str) -> list:
    try:
        return [files.delete(path)]
    except Refused as error:
        return [error.kind, str(error)]


@workflow(name="large")
def large() -> list:
    said = []
    text = "x" * 5_000_000
    step, event = {"name": "a", "ordinal": 0, "position": None, "result": text}, {"source": "orders", "type": "a", "data": text}
    asked = [("step_put", step), ("emit", event)]
    for kind, fields in asked:
        try:
            channel.ask("x", kind, **fields)
        except Refused as error:
            said.append([error.kind, str(error)])
    return said


@workflow(name="raw")
def raw(requests: list) -> list:
    said = []
    for kind, fields in requests:
        try:
            answer = channel.ask("x", kind, **fields)
            said.append(answer and {name: value for name, value in answer.items() if name != "data"})
        except Refused as error:
            said.append(error.kind)
    return said


@workflow(name="flood")
def flood(kind: str, fields: dict, times: int) -> dict:
    asked = [channel.current.ask(kind, **fields) for _ in range(times)]
    said = {}
    for one in asked:
        error = one.exception()
        name = "ok" if error is None else error.kind
        said[name] = said.get(name, 0) + 1
    return said
"""


class Inside(Outside):
    """The same for any organization."""

    async def put(self, path: str, content: bytes, org: str = "default") -> FileView:
        async def parts() -> AsyncIterator[bytes]:
            yield content

        blob = await Blobs(self.bus.client, "workspace").put(parts())
        view: FileView = await self.bus.ask(
            PutFile(id=new_id(), org=org, actor="test", path=path, sha256=blob.sha256, size=blob.size)
        )
        assert view.problems == []
        return view

    async def result(self, workflow: str, org: str = "default", *, status: str = "succeeded", **given: Any) -> Any:
        """Run a workflow to its end; return its result, or the whole run when it did not succeed."""
        found: WorkflowFound = await self.bus.ask(FindWorkflow(org=org, name=workflow))
        assert found.entry is not None
        run = new_id()
        message = RunRequested(
            run=run, workflow=workflow, version=found.entry.version, input=given, requested_by="test", timeout=60.0
        )
        await self.bus.publish(self.bus.seal(message, org=org))

        async def ended() -> RunView | None:
            view: RunView = await self.bus.ask(GetRun(org=org, id=run))
            return view if view.finished_at else None

        view: Any = await eventually(ended)
        assert view.status == status, view
        return view.result if status == "succeeded" else view


@asynccontextmanager
async def everything(place: Place, data: Path) -> AsyncIterator[Inside]:
    async with river(place, data) as outside, running(place, "oauth"):
        inside = Inside(place, outside.bus)
        await inside.put("workflows.py", WORKFLOWS, "global")
        yield inside


async def whole(admin: Bus, stream: str) -> list[Any]:
    """Return the envelopes of a stream, read again when more came meanwhile."""

    async def still() -> list[Any] | None:
        count = (await admin.client.jetstream().stream_info(stream)).state.messages
        try:
            return [await stored(admin, stream, count)]
        except AssertionError:
            return None

    found: Any = await eventually(still)
    return list(found[0])


async def configured(inside: Inside, place: Place, org: str = "default") -> None:
    ask = inside.bus.ask
    schema = {"type": "object", "properties": {"url": {"type": "string"}}}
    await ask(resources.putting("integration", "halopsa", org=org, config_schema=schema))
    config = {"url": f"https://{org}.example"}
    await ask(resources.putting("mapping", "halopsa", org=org, config=config, entity_id="7", connection="halo"))
    await ask(putting(place, "halo", org=org, token=TOKEN))
    await ask(secret(place, org=org, value=SECRET))
    await ask(variable("limit", 50, org=org))
    await ask(resources.putting("source", "orders", org=org, adapter="topic"))
    await inside.put("data/own.txt", b"own", org)


async def test_a_run_is_given_all_that_its_organization_has_and_says_no_secret(place: Place, data: Path) -> None:
    async with everything(place, data) as inside, bus_of(place, "admin") as admin:
        await configured(inside, place)
        found = await inside.result("everything")
        event = found.pop("event")
        assert found == {
            "config": {"url": "https://default.example"}, "entity": "7", "token": "***", "key": "***", "limit": 50,
            "absent": "none", "kept": "data/out.txt", "lengths": [len(SECRET), len(TOKEN)],
        }  # fmt: skip
        failed = await inside.result("everything", status="failed", fail=True)
        assert failed.error.message == "*** ***"
        said: list[Any] = []
        for stream in ("EVENTS", "RUNS", "LINES", "CATALOG", "CONNECTIONS", "AUDIT"):
            said += await whole(admin, stream)
        texts = [repr(one) + bytes(one.data).decode() for one in said]
        for hidden in (SECRET, TOKEN, json.dumps(SECRET)[1:-1]):
            assert not [text for text in texts if hidden in text]
        accepted = [one for one in said if one.type == "event.accepted"]
        assert json.loads(bytes(accepted[0].data))["event"] == event
        assert json.loads(bytes(accepted[0].data))["data"] == {"n": 50, "key": "***"}
        started = next(one for one in said if one.type == "run.started")
        assert (accepted[0].correlationid, accepted[0].causationid) == (started.correlationid, started.id)
        given = [open_message(one, Audited) for one in said if one.type == "audit.given"]
        assert {(one.category, one.target, one.outcome) for one in given} == {("secret", "api.key", "ok"), ("token", "halo", "ok")}
        written = [open_message(one, FileChanged) for one in said if one.type == "file.changed"]
        assert next(one.actor for one in written if one.path == "data/out.txt") == f"run:{started.subject}"

        async def delivered() -> DeliveryView | None:
            try:
                view: DeliveryView = await inside.bus.ask(
                    GetDelivery(org="default", id=json.loads(bytes(accepted[0].data))["delivery"])
                )
            except NotFound:
                return None
            return view

        delivery: Any = await eventually(delivered)
        assert delivery.type == "order.paid"


async def test_a_run_of_another_organization_is_given_nothing_of_the_same_names(place: Place, data: Path) -> None:
    async with everything(place, data) as inside:
        await configured(inside, place, "other")
        await inside.put("shared/text.txt", b"for all", "global")
        found = await inside.result("asking")
        kinds = {name: answer[0] for name, answer in found.items() if name not in {"shared", "list"}}
        assert kinds == dict.fromkeys(("variable", "secret", "connection", "integration", "event", "file"), "NotFound")
        assert found["secret"][1] == "there is no secret 'api.key' in this organization or in global"
        assert (found["shared"], found["list"]) == ("for all", [])
        theirs = await inside.result("asking", "other")
        assert (theirs["variable"], theirs["file"], theirs["list"]) == (50, "own", ["data/own.txt"])


async def test_a_run_writes_below_data_and_never_code(place: Place, data: Path) -> None:
    async with everything(place, data) as inside:
        assert await inside.result("writing", path="data/é/a b.bin") == [3]
        for path in ("out.txt", "workflows.py", "data", "database/x", "data/x.py", "data/x.pyi", "data/requirements.txt"):
            kind, message = await inside.result("writing", path=path)
            assert kind == "PermissionDenied"
            assert repr(path) in message
        for path in ("data/../x", "/data/x", "data//x", "data/./x", "data/x\\y", "data/x\u202ey", "data/" + "x" * 300, "../data/x"):
            assert (await inside.result("writing", path=path))[0] == "Invalid"
        await inside.put("data/of-all.txt", b"platform", "global")
        assert (await inside.result("deleting", path="data/of-all.txt"))[0] == "NotFound"
        assert (await inside.result("deleting", path="workflows.py"))[0] == "PermissionDenied"
        assert await inside.result("deleting", path="data/é/a b.bin") == [None]
        assert (await inside.bus.ask(GetFile(org="global", path="data/of-all.txt"))).size == 8


async def test_files_have_limits_that_are_told(place: Place, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FILE_BYTES", 3 << 20)
    monkeypatch.setattr(files, "WRITTEN_BYTES", 4 << 20)
    monkeypatch.setattr(files, "CHANGES", 3)
    async with everything(place, data) as inside:
        assert await inside.result("writing", path="data/a", size=3 << 20) == [3 << 20]
        kind, message = await inside.result("writing", path="data/b", size=(3 << 20) + 1)
        assert (kind, "more than 3145728 bytes" in message) == ("TooLarge", True)
        part = {"path": "data/c", "data": "QUFB", "at": 0, "is_last": True}
        assert await inside.result("flood", kind="file_delete", fields={"path": "data/a"}, times=6) == {
            "ok": 1,
            "NotFound": 2,
            "TooLarge": 3,
        }
        whole = [["file_write", part | {"writing": number, "path": f"data/{number}"}] for number in range(5)]
        said = await inside.result("raw", requests=whole)
        assert [one if isinstance(one, str) else one["size"] for one in said] == [3, 3, 3, "TooLarge", "TooLarge"]
        await inside.put("data/in", b"x" * (2 << 20))
        monkeypatch.setattr(files, "READ_BYTES", 1 << 20)
        reads = [["file_read", {"path": "data/in", "reading": 1, "at": at}] for at in (0, 1 << 20)]
        first, second = await inside.result("raw", requests=reads)
        assert (first["size"], second) == (2 << 20, "TooLarge")


async def test_parts_out_of_order_are_refused_and_do_no_harm(place: Place, data: Path) -> None:
    async with everything(place, data) as inside:
        await inside.put("data/in", b"x" * (3 << 20))
        part = {"path": "data/c", "data": "QUFB", "at": 0, "is_last": False, "writing": 1}
        read = {"path": "data/in", "reading": 1, "at": 0}
        requests = [
            ["file_read", read | {"at": 7}],
            ["file_read", read],
            ["file_read", read],
            ["file_read", read | {"at": 1 << 20, "path": "data/other"}],
            ["file_write", part | {"at": 3}],
            ["file_write", part],
            ["file_write", part],
            ["file_write", part | {"at": 3, "is_last": True}],
            *(["file_write", part | {"writing": number}] for number in range(10, 20)),
        ]
        said = [one if isinstance(one, str) or one is None else "data" for one in await inside.result("raw", requests=requests)]
        assert said[:8] == ["Invalid", "data", "Invalid", "Invalid", "Invalid", None, "Invalid", "Invalid"]
        assert said[8:] == [None] * 5 + ["Unavailable"] * 5
        reading = {"kind": "file_read", "fields": read, "times": 20}
        flooded = await inside.result("flood", **reading)
        assert flooded == {"ok": 1, "Invalid": 19}


async def test_a_flood_of_requests_is_told_where_it_ends_and_leaves_a_bounded_trail(
    place: Place, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capabilities, "CREDENTIALS", 40)
    monkeypatch.setattr(capabilities, "EVENTS", 5)
    monkeypatch.setattr(capabilities, "QUESTIONS", 200)
    async with everything(place, data) as inside, bus_of(place, "admin") as admin:
        await configured(inside, place)
        assert await inside.result("flood", kind="secret", fields={"name": "api.key"}, times=300) == {"ok": 40, "TooLarge": 260}
        given = [one for one in await whole(admin, "AUDIT") if one.type == "audit.given"]
        assert len(given) == 40
        emitting = {"source": "orders", "type": "a", "data": 1}
        assert await inside.result("flood", kind="emit", fields=emitting, times=9) == {"ok": 5, "TooLarge": 4}
        assert await inside.result("flood", kind="variable", fields={"name": "limit"}, times=500) == {"ok": 200, "TooLarge": 300}


async def test_what_two_runs_write_at_once_is_one_of_them_whole(place: Place, data: Path) -> None:
    async with everything(place, data) as inside:
        sizes = [(1 << 20) + n for n in range(4)]
        await asyncio.gather(*(inside.result("writing", path="data/shared", size=size) for size in sizes))
        assert (await inside.bus.ask(GetFile(org="default", path="data/shared"))).size in sizes


async def test_what_no_message_holds_is_refused_and_not_tried_again(place: Place, data: Path) -> None:
    async with everything(place, data) as inside:
        assert await inside.result("large") == [
            ["TooLarge", "the result of step 'a' has 5000002 bytes as JSON; at most 262144 are kept"],
            ["TooLarge", "the event's data has 5000002 bytes as JSON; at most 262144 are kept"],
        ]
