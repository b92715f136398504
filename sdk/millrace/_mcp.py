"""`connections.mcp(name)`: tools of another server for the Model Context Protocol, with a connection's credentials."""

import base64
import itertools
import json
from collections.abc import Generator
from typing import Any

from millrace import _bounds
from millrace._http import Client
from millrace._outgoing import Options
from millrace._reply import Reply
from millrace.errors import RequestFailed, ToolFailed

_MODERN, _EARLIER = "2026-07-28", "2025-11-25"
_META = "io.modelcontextprotocol/"
_NAMES = {"tools/call": "name"}
_PAGES = 100
"""Of a list of tools."""

Asked = Generator[Options, Reply, Any]


class ToolServer:
    """A server at the connection's `base_url`, from any thread or task; nothing is asked for before its first call.

    Each method waits; inside a coroutine use its counterpart with an `a`. Raises what a `Client` raises, `StatusError` where the
    server refuses, `RequestFailed` where it answers what is none of the protocol, and `ToolFailed` where a tool has failed.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._version: str | None = None
        self._session: str | None = None
        self._ids = itertools.count(1)

    def __repr__(self) -> str:
        """Show the name of the connection, and no credentials."""
        return f"ToolServer({self._client!r})"

    def tools(self) -> list[dict[str, Any]]:
        """Answer the tools: `name`, `description`, `inputSchema` and what else the server says of each."""
        return self._now(self._listed())  # type: ignore[no-any-return]

    async def atools(self) -> list[dict[str, Any]]:
        """Do the same without holding up the event loop."""
        return await self._later(self._listed())  # type: ignore[no-any-return]

    def call(self, tool: str, /, **arguments: Any) -> Any:
        """Call a tool and answer its structured result, or its text where it has none, or else its content as a list.

        Raises `ToolFailed` where the result says that the tool has failed, or the server that there is none such.
        """
        return self._now(self._called(tool, arguments))

    async def acall(self, tool: str, /, **arguments: Any) -> Any:
        """Do the same without holding up the event loop."""
        return await self._later(self._called(tool, arguments))

    def _now(self, asked: Asked) -> Any:
        reply = None
        while True:
            try:
                options = asked.send(reply)  # type: ignore[arg-type]
            except StopIteration as end:
                return end.value
            reply = self._client.post("", **options)

    async def _later(self, asked: Asked) -> Any:
        reply = None
        while True:
            try:
                options = asked.send(reply)  # type: ignore[arg-type]
            except StopIteration as end:
                return end.value
            reply = await self._client.apost("", **options)

    def _listed(self) -> Asked:
        found: list[dict[str, Any]] = []
        cursor = None
        for _ in range(_PAGES):
            page = yield from self._asked("tools/list", {} if cursor is None else {"cursor": cursor})
            found += page.get("tools") or []
            cursor = page.get("nextCursor")
            if cursor is None:
                break
        return found

    def _called(self, tool: str, arguments: dict[str, Any]) -> Asked:
        result = yield from self._asked("tools/call", {"name": _bounds.text(tool, "a tool's name"), "arguments": arguments})
        content = result.get("content") or []
        is_text = all(one.get("type") == "text" for one in content)
        said = "\n".join(str(one.get("text", "")) for one in content if one.get("type") == "text")
        if result.get("isError"):
            raise ToolFailed(tool, said)
        if "structuredContent" in result:
            return result["structuredContent"]
        return said if is_text else content

    def _asked(self, method: str, params: dict[str, Any]) -> Asked:
        """Ask for one thing, in the way that the server speaks; a session that it has ended is begun anew once."""
        for is_last in (False, True):
            if self._version is None:
                yield from self._begin()
            reply = yield self._message(method, params, next(self._ids))
            if reply.status == 404 and self._session is not None and not is_last:
                self._version = self._session = None
                continue
            break
        return _result(reply, method, params)

    def _begin(self) -> Asked:
        """Find out which way is spoken: that of the newest revision, or the one that begins with `initialize`."""
        self._version = _MODERN
        reply = yield self._message("server/discover", {}, next(self._ids))
        if reply.status in (401, 403) or reply.status >= 500:
            self._version = None
            reply.raise_for_status()
        told = _told(reply)
        if reply.ok and told is not None and _MODERN in ((told.get("result") or {}).get("supportedVersions") or []):
            return
        self._version = None
        known = {"protocolVersion": _EARLIER, "capabilities": {}, "clientInfo": _client_info()}
        reply = yield self._message("initialize", known, next(self._ids))
        result = _result(reply, "initialize", {})
        self._version, self._session = str(result.get("protocolVersion") or _EARLIER), reply.headers.get("mcp-session-id")
        yield self._message("notifications/initialized", {}, None)

    def _message(self, method: str, params: dict[str, Any], id_: int | None) -> Options:
        headers = {"Accept": "application/json, text/event-stream"}
        if self._version is not None:
            headers["MCP-Protocol-Version"] = self._version
        if self._session is not None:
            headers["Mcp-Session-Id"] = self._session
        if self._version == _MODERN:
            headers["Mcp-Method"] = method
            if method in _NAMES:
                headers["Mcp-Name"] = _header(params[_NAMES[method]])
            about = {"protocolVersion": _MODERN, "clientInfo": _client_info(), "clientCapabilities": {}}
            params = params | {"_meta": {f"{_META}{name}": value for name, value in about.items()}}
        message = {"jsonrpc": "2.0", "method": method, "params": params} | ({} if id_ is None else {"id": id_})
        return {"json": message, "headers": headers}


def _client_info() -> dict[str, str]:
    return {"name": "millrace", "version": "1"}


def _header(value: str) -> str:
    """Answer a value as it may stand in a header: other text than plain ASCII in base64."""
    if value.isascii() and value.isprintable() and value == value.strip() and not value.startswith("=?base64?"):
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode()}?="


def _result(reply: Reply, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Answer the result that a reply has. Raises `ToolFailed` for an error of the protocol, `StatusError`, `RequestFailed`."""
    told = _told(reply)
    if told is not None and isinstance(told.get("error"), dict):
        raise ToolFailed(params.get("name") or method, str(told["error"].get("message")))
    reply.raise_for_status()
    result = None if told is None else told.get("result")
    if not isinstance(result, dict):
        msg = f"{reply.method} {reply.url}: the answer to {method} is none of the Model Context Protocol"
        raise RequestFailed(msg)
    return result


def _told(reply: Reply) -> dict[str, Any] | None:
    """Answer the message that a reply is, or that its stream of events ends in; None for anything else."""
    texts = [reply.text]
    if reply.headers.get("content-type", "").startswith("text/event-stream"):
        events = reply.text.replace("\r\n", "\n").replace("\r", "\n").split("\n\n")
        texts = ["\n".join(line[5:].lstrip(" ") for line in event.split("\n") if line.startswith("data:")) for event in events]
    for text in reversed(texts):
        try:
            found = json.loads(text)
        except ValueError:
            continue
        if isinstance(found, dict) and ("result" in found or "error" in found):
            return found
    return None
