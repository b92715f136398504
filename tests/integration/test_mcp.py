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
from mcp.types import CallToolResult, TextContent

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
from millrace import log, wait_for, workflow


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
    assert set(tools) == {"add", "stumble", "linger"}
    assert tools["add"].description == "Add two numbers."
    assert tools["add"].input_schema["required"] == ["a"]
    hints = tools["add"].annotations
    assert hints is not None
    assert (hints.destructive_hint, hints.idempotent_hint, hints.read_only_hint) == (False, True, None)
    said: list[str] = []

    async def progress(_done: float, _of: float | None, message: str | None) -> None:
        said.append(message or "")

    found = await client.call_tool("add", {"a": 2}, progress_callback=progress)
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
        found = [open_message(envelope) for envelope in await stream(place, "AUDIT")]
        said = {(one.actor, one.verb, one.target, one.detail.get("run")) for one in found if isinstance(one, Audited)}
        denied = {one.actor for one in found if isinstance(one, Audited) and one.verb == "denied"}
        made = ("key:narrow", "request", "add", (added.meta or {}).get("millrace/run"))
        return made in said and {"key:narrow", "key:viewer"} <= denied

    await eventually(audited)


async def test_a_client_that_leaves_ends_its_run_where_it_says_so(home: House) -> None:
    async def waiting() -> list[dict[str, Any]]:
        return [one for one in (await home.get("/runs?workflow=linger"))["items"] if one["status"] == "waiting"]

    async with agent(home) as client:
        for meta in ({}, {"millrace/cancel": True}):
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


def asked(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def modern(method: str, **params: Any) -> dict[str, Any]:
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
