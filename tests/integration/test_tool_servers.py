"""Tools of other servers in workflows: `connections.mcp` before the official server, in both ways of the protocol."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from millrace import Connection, Reply, StatusError, connections, errors, testing, workflow
from millrace._declare import REGISTRY
from millrace.testing.outcome import Sent

TOKEN = "a-token-of-the-connection"
HERE = Connection("tickets", TOKEN, base_url="https://tickets.example/mcp", headers={"Authorization": f"Bearer {TOKEN}"})

served = MCPServer("tickets")


@served.tool()
async def find(query: str, ctx: Context) -> dict[str, list[str]]:
    """Find tickets."""
    await ctx.report_progress(1, 2, "looking")
    return {"found": [query, "é"]}


@served.tool(structured_output=False)
def tell(name: str) -> str:
    """Greet."""
    return f"hello {name}"


@served.tool()
def fail() -> str:
    """Fail."""
    raise ToolError("the tickets are gone")


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    before = len(REGISTRY)
    yield
    del REGISTRY[before:]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of the server, on a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = uvicorn.Server(uvicorn.Config(served.streamable_http_app(), log_level="warning"))
        thread = threading.Thread(target=asyncio.run, args=(server.serve([taken]),))
        thread.start()
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/mcp"
        server.should_exit = True
        thread.join()


def played(url: str, body: Any, *, modern: bool = True) -> testing.Outcome:
    def forward(sent: Sent) -> Reply:
        if not modern and b"server/discover" in sent.content:
            return Reply(400)
        got = requests.request(sent.method, url, data=sent.content, headers=sent.headers, timeout=30)
        return Reply(got.status_code, got.content, {name.lower(): value for name, value in got.headers.items()})

    return testing.run(body, connections={"tickets": HERE}, answers={"tickets": forward})


@pytest.mark.parametrize("modern", [True, False], ids=["modern", "earlier"])
def test_a_workflow_lists_and_calls_the_tools_of_another_server(url: str, modern: bool) -> None:
    @workflow
    async def main() -> list[Any]:
        mcp = connections.mcp("tickets")
        names = [one["name"] for one in await mcp.atools()]
        found = [names, await mcp.acall("find", query="open"), mcp.call("tell", name="Ada")]
        for tool in ("fail", "none"):
            try:
                mcp.call(tool)
            except errors.ToolFailed as error:
                found.append((error.tool, str(error)))
        return found

    outcome = played(url, main, modern=modern)
    names, structure, text, failed, unknown = outcome.value()
    assert names == ["find", "tell", "fail"]
    assert (structure, text) == ({"found": ["open", "é"]}, "hello Ada")
    assert "the tickets are gone" in failed[1]
    assert unknown[0] == "none"
    spoken = {sent.headers.get("MCP-Protocol-Version") for sent in outcome.sent[3:]}
    assert spoken == ({"2026-07-28"} if modern else {"2025-11-25"})


def test_an_answer_that_is_none_of_the_protocol_is_an_error_and_shows_no_credentials() -> None:
    @workflow
    def main() -> Any:
        return connections.mcp("tickets").call("find", query="x")

    for answers, error, said in (
        (lambda _: Reply(403, TOKEN.encode()), StatusError, "403"),
        (lambda _: Reply(200, b"<html>"), errors.RequestFailed, "none of the Model Context Protocol"),
    ):
        outcome = testing.run(main, connections={"tickets": HERE}, answers={"tickets": answers})
        assert isinstance(outcome.exception, error)
        assert said in str(outcome.exception)
        assert TOKEN not in str(outcome.exception)
    assert repr(connections.mcp("tickets")) == "ToolServer(Client('tickets'))"
