"""Workflows as tools: the official client before a gateway and its executor."""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from mcp import Client, MCPError
from mcp.types import CallToolResult, ResourceTemplateReference, TextContent, TextResourceContents

from services.gateway.api.mcp import tasks
from services.gateway.api.mcp.protocol import (
    CAPABILITIES_KEY,
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD,
    MODERN,
    NAME,
    NO_METHOD,
    PARSE_ERROR,
    REFUSED,
    UNSUPPORTED_VERSION,
    VERSION,
    VERSION_KEY,
)
from services.gateway.api.mcp.server import _METHODS, MOST_BYTES
from shared.envelope import open_message
from shared.messages import Audited
from tests.integration.test_gateway import Got, gateway, stream
from tests.integration.test_run_routes import House
from tests.support.inside import eventually
from tests.support.mcp import WAYS, connected
from tests.support.river import river
from tests.support.servers import Place

WORKFLOWS = b'''
from millrace import ask, log, wait_for, workflow


@workflow(tool=True, destructive=False, idempotent=True)
def add(a: int, b: int = 1) -> dict:
    """Add two numbers."""
    for number in (a, b):
        log.info("adding", number=number)
    return {"sum": a + b}


@workflow(tool=True)
def stumble() -> None:
    raise ValueError("there is no such ticket")


@workflow(tool=True)
async def linger() -> str:
    await wait_for("go")
    return "gone"


@workflow(tool=True)
async def refund(order: str) -> str:
    answer = await ask(f"Refund order {order}?", to=["admin"])
    return f"refunded, as {answer.by} said" if answer.approved else "left alone"


@workflow
def hidden() -> str:
    return "found"
'''


@pytest.fixture
async def home(place: Place, data: Path) -> AsyncIterator[House]:
    async with river(place, data) as outside, gateway(place) as client:
        assert (await outside.put_file("tools.py", WORKFLOWS)).problems == []
        yield House(client, outside, place)


@asynccontextmanager
async def agent(home: House, mode: str = "auto", **key: Any) -> AsyncIterator[Client]:
    """A client with a key of its own."""
    name = key.pop("name", f"agent-{mode}")
    made = await home.client("PUT", f"/api/v1/keys/{name}", json={"role": "operator"} | key)
    assert made.status in {200, 201}, made.body
    async with connected(home.client.url, made.json["key"], mode) as client:
        yield client


async def use_tools(client: Client) -> None:
    tools = {one.name: one for one in (await client.list_tools()).tools}
    assert set(tools) == {"add", "stumble", "linger", "refund"}
    assert tools["add"].description == "Add two numbers."
    assert tools["add"].input_schema["required"] == ["a"]
    hints = tools["add"].annotations
    assert hints is not None
    assert (hints.destructive_hint, hints.idempotent_hint, hints.read_only_hint) == (False, True, None)
    said: list[str] = []

    async def told(progress: float, total: float | None, message: str | None) -> None:
        assert progress > 0
        assert total is None
        said.append(message or "")

    found = await client.call_tool("add", {"a": 2}, progress_callback=told)
    assert (found.is_error or False, found.structured_content) == (False, {"sum": 3})
    assert {"succeeded", 'adding {"number":2}'} <= set(said)
    failed = await client.call_tool("stumble", {})
    assert failed.is_error
    assert "ValueError: there is no such ticket" in text_of(failed)
    misfit = await client.call_tool("add", {"a": "two"})
    assert misfit.is_error
    assert "input.a" in text_of(misfit)
    for unknown in ("hidden", "nothing"):
        with pytest.raises(MCPError, match="there is no tool"):
            await client.call_tool(unknown, {})


def text_of(result: CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


async def test_a_client_lists_the_tools_that_its_key_may_call_and_calls_them(home: House, place: Place) -> None:
    for mode in WAYS:
        async with agent(home, mode) as client:
            await use_tools(client)
    async with agent(home, scopes=["workflow:add"], name="narrow") as client:
        assert [one.name for one in (await client.list_tools()).tools] == ["add"]
        added = await client.call_tool("add", {"a": 1})
        with pytest.raises(MCPError, match="scope") as refused:
            await client.call_tool("stumble", {})
        assert refused.value.error.code == REFUSED
    async with agent(home, role="viewer", name="viewer") as client:
        assert (await client.list_tools()).tools == []
        with pytest.raises(MCPError, match="operator"):
            await client.call_tool("add", {"a": 1})

    async def audited() -> bool:
        found: list[Any] = [open_message(envelope) for envelope in await stream(place, "AUDIT")]
        said = {(one.actor, one.verb, one.target, one.detail.get("run")) for one in found if isinstance(one, Audited)}
        denied = {one.actor for one in found if isinstance(one, Audited) and one.verb == "denied"}
        made = ("key:narrow", "request", "add", (added.meta or {}).get("millrace/run"))
        return made in said and {"key:narrow", "key:viewer"} <= denied

    await eventually(audited)


async def test_a_client_that_leaves_ends_its_run_where_it_says_so(home: House) -> None:
    async def waiting() -> list[dict[str, Any]]:
        return [one for one in (await home.get("/runs?workflow=linger"))["items"] if one["status"] == "waiting"]

    async with agent(home) as client:
        metas: tuple[Any, ...] = ({}, {"millrace/cancel": True})
        for meta in metas:
            call = asyncio.create_task(client.call_tool("linger", {}, meta=meta))
            found: Any = await eventually(waiting)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
            if not meta:
                signal = await home.client("POST", f"/api/v1/runs/{found[0]['id']}/signals/go", json=None)
                assert signal.status == 202
                assert (await home.come_to(found[0]["id"], "succeeded"))["result"] == "gone"
            else:
                await home.come_to(found[0]["id"], "cancelled")


async def test_a_tool_that_asks_a_person_waits_for_the_answer_and_its_caller_cannot_give_it(home: House) -> None:
    said: list[str] = []

    async def told(progress: float, total: float | None, message: str | None) -> None:
        said.append(f"{progress} {total} {message}")

    async def opened() -> Any:
        return [one for one in (await home.get("/approvals"))["items"] if one["status"] == "open"]

    made = await home.client("PUT", "/api/v1/keys/asking", json={"role": "operator"})
    async with connected(home.client.url, made.json["key"]) as client:
        call = asyncio.create_task(client.call_tool("refund", {"order": "A-7"}, progress_callback=told))
        found: Any = await eventually(opened)
        (approval,) = found
        own = {"Authorization": f"Bearer {made.json['key']}"}
        path = f"/api/v1/approvals/{approval['id']}"
        assert (await home.client("POST", path, json={"decision": "approve"}, headers=own)).status == 403
        await eventually(lambda: _is_in("waiting for answer", said))
        assert not call.done()
        assert (await home.client("POST", path, json={"decision": "approve"})).status == 200
        assert text_of(await call).startswith("refunded, as ")


async def _is_in(what: str, said: list[str]) -> bool:
    return any(what in one for one in said)


BROKEN = """
from millrace import workflow


@workflow
def divide(by: int) -> float:
    return 1 / by
"""


async def test_an_agent_builds_a_workflow_finds_what_is_wrong_with_it_mends_it_and_resumes_its_run(home: House) -> None:
    async with agent(home, role="operator", name="operator") as client:
        assert not [one for one in (await client.list_tools()).tools if one.name.startswith("millrace_")]
        with pytest.raises(MCPError, match="developer") as refused:
            await client.call_tool("millrace_read_file", {"path": "tools.py"})
        assert refused.value.error.code == REFUSED
    async with agent(home, role="developer", name="narrow-author", scopes=["runs", "workflow:add"]) as client:
        found = {one.name for one in (await client.list_tools()).tools}
        assert "millrace_read_lines" in found
        assert not {"millrace_commit", "millrace_read_file", "millrace_search_logs"} & found
        with pytest.raises(MCPError, match="scope"):
            await client.call_tool("millrace_commit", {"files": {"a.py": ""}})
    async with agent(home, role="developer", name="author") as client:

        async def use(tool: str, **given: Any) -> Any:
            done = await client.call_tool(f"millrace_{tool}", given)
            assert not done.is_error, text_of(done)
            assert msgspec.json.decode(text_of(done)) == done.structured_content
            return done.structured_content

        broken = await use("commit", files={"flows/divide.py": BROKEN.replace("def divide", "def divide(")}, message="divide")
        assert [one["path"] for one in broken["problems"]] == ["flows/divide.py"]
        assert [one["path"] for one in (await use("problems"))["problems"]] == ["flows/divide.py"]
        mended = await use("commit", files={"flows/divide.py": BROKEN})
        assert mended["files"]["flows/divide.py"]["workflows"] == ["divide"]
        read = await use("read_file", path="flows/divide.py")
        assert read["text"] == BROKEN
        run = await use("run", name="divide", input={"by": 0}, wait=60)
        assert (run["status"], run["error"]["type"]) == ("failed", "ZeroDivisionError")
        assert (await use("get_run", id=run["id"]))["id"] == run["id"]
        assert (await use("read_lines", id=run["id"]))["items"] == []
        safer = BROKEN.replace("1 / by", "1 / (by or 1)")
        await use("commit", files={"flows/divide.py": safer}, expected={"flows/divide.py": read["sha256"]})
        resumed = await use("resume", id=run["id"])
        assert (await home.come_to(resumed["id"], "succeeded"))["result"] == 1.0
        for name, given, said in (
            ("commit", {"files": {"flows/divide.py": ""}, "expected": {"flows/divide.py": read["sha256"]}}, "flows/divide.py"),
            ("read_file", {"path": "nothing.py"}, "nothing.py"),
            ("read_file", {"path": 1}, "path"),
            ("read_lines", {"id": run["id"], "colour": 1}, "colour"),
            ("run", {"name": "divide", "wait": "long"}, "wait"),
            ("get_run", {"id": "nobody"}, "nobody"),
        ):
            wrong = await client.call_tool(f"millrace_{name}", given)
            assert wrong.is_error, name
            assert said in text_of(wrong)


async def test_files_runs_lines_and_workflows_are_resources(home: House) -> None:
    async with agent(home, role="viewer", name="reader") as client:
        assert [(str(one.uri), one.name) for one in (await client.list_resources()).resources] == [
            ("millrace://files/tools.py", "tools.py")
        ]
        forms = {one.name: one.uri_template for one in (await client.list_resource_templates()).resource_templates}
        assert forms["lines"] == "millrace://runs/{id}/logs"

        async def read(uri: str) -> str:
            (content,) = (await client.read_resource(uri)).contents
            assert isinstance(content, TextResourceContents)
            return content.text

        async def is_said(uri: str, text: str) -> bool:
            return text in await read(uri)

        assert (await read("millrace://files/tools.py")).encode() == WORKFLOWS
        run = (await home.run("add", "succeeded", input={"a": 4}))["id"]
        assert msgspec.json.decode(await read(f"millrace://runs/{run}"))["result"] == {"sum": 5}
        await eventually(lambda: is_said(f"millrace://runs/{run}/logs", 'adding {"number":4}'))
        assert msgspec.json.decode(await read("millrace://workflows/add"))["name"] == "add"
        for unknown in (
            "millrace://files/none.py",
            "millrace://runs/none",
            "millrace://files/..%2f..%2fetc%2fpasswd",
            "file:///etc/passwd",
        ):
            with pytest.raises(MCPError):
                await client.read_resource(unknown)
        template = ResourceTemplateReference(type="ref/resource", uri=forms["file"])
        for name, value, found in (("path", "too", ["tools.py"]), ("id", run[:-1], [run]), ("name", "stu", ["stumble"])):
            completed = await client.complete(template, {"name": name, "value": value})
            assert completed.completion.values == found
        asking = b"# Look into a ticket\n\nFind out why {{ticket}} is open; write to {{ who }}. {{ticket}}"
        for path, content in (("prompts/triage.md", asking), ("prompts/notes.txt", b""), ("prompts/bytes.md", b"\xff\x00{{a}}")):
            await home.outside.put_file(path, content)
        prompts = {one.name: one for one in (await client.list_prompts()).prompts}
        assert set(prompts) == {"triage", "bytes"}
        assert prompts["triage"].description == "Look into a ticket"
        assert [one.name for one in prompts["triage"].arguments or []] == ["ticket", "who"]
        (message,) = (await client.get_prompt("triage", {"ticket": "{{who}}", "who": "Ada"})).messages
        assert isinstance(message.content, TextContent)
        assert message.content.text.endswith("why {{who}} is open; write to Ada. {{who}}")
        for name, given, said in (("none", {}, "no prompt"), ("../tools", {}, "prompt|path"), ("triage", {"ticket": "1"}, "who")):
            with pytest.raises(MCPError, match=said):
                await client.get_prompt(name, given)
    async with agent(home, role="operator", name="caller", scopes=["workflow:add"]) as client:
        assert (await client.list_resources()).resources == []
        assert (await client.list_prompts()).prompts == []
        with pytest.raises(MCPError, match="scope"):
            await client.read_resource("millrace://files/tools.py")


async def test_a_call_goes_on_as_a_task_of_its_caller(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "AFTER", 0.1)
    keys = {}
    for name, scopes in (("mine", ["workflow:linger"]), ("others", [])):
        made = await home.client("PUT", f"/api/v1/keys/{name}", json={"role": "operator", "scopes": scopes})
        keys[name] = {"Authorization": f"Bearer {made.json['key']}"}

    async def post(body: Any, whose: str = "mine", **headers: str) -> Any:
        accept = {"Accept": "application/json"}
        got = await home.client("POST", "/mcp", json=body, headers=keys[whose] | accept | headers)
        assert got.status == 200, got.body
        return got.json

    async def later(method: str, whose: str = "mine", /, **params: Any) -> Any:
        repeated = {NAME: params["name"]} if "name" in params else {}
        capable = {VERSION_KEY: MODERN, CAPABILITIES_KEY: {"extensions": {tasks.EXTENSION: {}}}}
        return await post(asked(method, **params, _meta=capable), whose, **{VERSION: MODERN, METHOD: method}, **repeated)

    async def state(ask: Any, run: str, status: str) -> Any:
        async def is_so() -> Any:
            found = (await ask("tasks/get", taskId=run))["result"]
            return found if found["status"] == status else None

        return await eventually(is_so)

    async def earlier(method: str, whose: str = "mine", /, **params: Any) -> Any:
        return await post(asked(method, **params), whose)

    begun = (await earlier("tools/call", name="linger", task={"ttl": 60_000}))["result"]["task"]
    assert begun["status"] == "working"
    assert (await earlier("tasks/get", "others", taskId=begun["taskId"]))["error"]["code"] == INVALID_PARAMS
    result = asyncio.create_task(earlier("tasks/result", taskId=begun["taskId"]))
    await home.come_to(begun["taskId"], "waiting")
    assert (await home.client("POST", f"/api/v1/runs/{begun['taskId']}/signals/go", json=None)).status == 202
    assert (await result)["result"]["content"][0]["text"] == "gone"
    await state(earlier, begun["taskId"], "completed")

    task = (await later("tools/call", name="linger"))["result"]
    assert (task["resultType"], task["status"]) == ("task", "working")
    assert (await later("tasks/cancel", "others", taskId=task["taskId"]))["error"]["code"] == INVALID_PARAMS
    assert (await later("tasks/cancel", taskId=task["taskId"]))["result"]["resultType"] == "complete"
    await state(later, task["taskId"], "cancelled")
    whole = (await later("tools/call", name="linger"))["result"]
    await home.come_to(whole["taskId"], "waiting")
    await home.client("POST", f"/api/v1/runs/{whole['taskId']}/signals/go", json=None)
    assert (await state(later, whole["taskId"], "completed"))["result"]["structuredContent"] == "gone"


def asked(method: str, /, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def modern(method: str, /, **params: Any) -> dict[str, Any]:
    return asked(method, **params, _meta={VERSION_KEY: MODERN, CAPABILITIES_KEY: {}})


REFUSALS: list[tuple[Any, dict[str, str], int, int]] = [
    (b"{", {}, 400, PARSE_ERROR),
    (b"[" * 100_000, {}, 400, PARSE_ERROR),
    (b'{"jsonrpc": "2.0", "id": 1, "id": 2, "method": "ping"}', {}, 400, PARSE_ERROR),
    ([asked("ping")], {}, 400, INVALID_REQUEST),
    (17, {}, 400, INVALID_REQUEST),
    ({"jsonrpc": "1.0", "id": 1, "method": "ping"}, {}, 400, INVALID_REQUEST),
    ({"jsonrpc": "2.0", "id": [1], "method": "ping"}, {}, 400, INVALID_REQUEST),
    ({"jsonrpc": "2.0", "id": "i" * 201, "method": "ping"}, {}, 400, INVALID_REQUEST),
    ({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []}, {}, 400, INVALID_REQUEST),
    ({"jsonrpc": "2.0", "id": 1, "result": {}}, {}, 400, INVALID_REQUEST),
    (asked("sampling/createMessage"), {}, 200, NO_METHOD),
    (asked("ping"), {VERSION: "1999-01-01"}, 400, UNSUPPORTED_VERSION),
    (modern("tools/list"), {}, 400, HEADER_MISMATCH),
    (modern("tools/list"), {VERSION: MODERN}, 400, HEADER_MISMATCH),
    (modern("tools/list"), {VERSION: MODERN, METHOD: "tools/call"}, 400, HEADER_MISMATCH),
    (modern("tools/call", name="add"), {VERSION: MODERN, METHOD: "tools/call", NAME: "stumble"}, 400, HEADER_MISMATCH),
    (modern("tools/call", name="add"), {VERSION: MODERN, METHOD: "tools/call", NAME: "=?base64?%?="}, 400, HEADER_MISMATCH),
    (modern("initialize"), {VERSION: MODERN, METHOD: "initialize"}, 404, NO_METHOD),
    (asked("tools/list", cursor="x"), {}, 200, INVALID_PARAMS),
    (asked("tools/list", cursor=1), {}, 200, INVALID_PARAMS),
    (asked("tools/call"), {}, 200, INVALID_PARAMS),
    (asked("tools/call", name="add", arguments=[1]), {}, 200, INVALID_PARAMS),
    (asked("ping"), {"Accept": "text/html"}, 406, INVALID_REQUEST),
    (asked("completion/complete", ref={"type": ["ref/resource"]}, argument={"name": "id"}), {}, 200, INVALID_PARAMS),
    (asked("prompts/get", name="a", arguments={"b": {}}), {}, 200, INVALID_PARAMS),
    (asked("tasks/get", taskId="../x"), {}, 200, INVALID_PARAMS),
    (asked("resources/read", uri="millrace://files/a%00b"), {}, 200, INVALID_PARAMS),
]


async def test_what_is_no_request_is_refused_and_nothing_that_is_sent_is_a_fault_here(home: House) -> None:
    async def post(body: Any, **headers: str) -> Got:
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return await home.client("POST", "/mcp", data=data, headers=home.client.key | headers)

    for body, headers, status, code in REFUSALS:
        got = await post(body, **headers)
        assert (got.status, got.json["error"]["code"]) == (status, code), (body, got.json)
    assert (await post({"jsonrpc": "2.0", "method": "notifications/initialized"})).status == 202
    assert (await post(asked("ping"), Origin="https://evil.example")).status == 403
    assert (await post(asked("ping"), Origin=home.client.url)).json["result"] == {}
    assert (await home.client("POST", "/mcp", data=io.BytesIO(b" " * (MOST_BYTES + 1)))).status == 413
    assert (await home.client("GET", "/mcp")).status == 405
    whole = await post(asked("tools/call", name="add", arguments={"a": 1}), Accept="application/json")
    assert whole.json["result"]["structuredContent"] == {"sum": 2}
    named = {VERSION: MODERN, METHOD: "tools/call", NAME: "=?base64?YWRk?="}
    assert (await post(modern("tools/call", name="add", arguments={"a": 1}), **named)).json["result"]["resultType"] == "complete"
    # Seeded: what is found once is found again.
    draw = random.Random(7)
    for _ in range(400):
        got = await post(hostile(draw), **draw.choice(({}, {VERSION: MODERN, METHOD: "tools/call"})))
        assert got.status < 500, got.body


def hostile(draw: random.Random) -> Any:
    """A message that is nearly one."""
    odd: list[Any] = [
        {"type": "ref/resource"},
        {"name": [], "value": ""},
        {"name": {}, "value": "x", "type": []},
        None,
        True,
        -1,
        2**53,
        1e308,
        "",
        "x" * 300,
        "\u202e",
        [],
        {},
        [[]],
        {"": {}},
        "../../etc/passwd",
        "millrace://runs/x",
    ]
    params: Any = {name: draw.choice(odd) for name in draw.sample(NAMES, 4)}
    params["_meta"] = draw.choice([*odd, {VERSION_KEY: draw.choice([*odd, MODERN]), CAPABILITIES_KEY: draw.choice(odd)}])
    message = asked(draw.choice(METHODS), **params)
    if draw.random() < 0.3:
        message[draw.choice(["jsonrpc", "id", "method", "params"])] = draw.choice(odd)
    return message


NAMES = ["name", "arguments", "cursor", "uri", "taskId", "task", "ref", "argument", "protocolVersion", "context", "progressToken"]
METHODS = sorted({name for _, name in _METHODS} | {"nothing"})
