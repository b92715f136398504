"""POST /mcp: one message of the Model Context Protocol, answered as JSON or as a stream of events (docs/mcp.md)."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from aiohttp import web

from services.gateway.api.access import denied
from services.gateway.api.endpoint import Call, Example, Header, Reply, Streamed, endpoint
from services.gateway.api.mcp import prompts, resources, tasks, tools
from services.gateway.api.mcp.exchange import Exchange, Method, Result
from services.gateway.api.mcp.protocol import (
    EARLIER,
    INVALID_REQUEST,
    METHOD,
    NAME,
    NO_METHOD,
    PARSE_ERROR,
    SERVER,
    SUPPORTED,
    VERSION,
    RpcError,
    answer,
    failure,
    id_of,
    kept,
    read,
    refused,
)
from services.gateway.api.origins import origins_of
from shared.errors import Invalid, Malformed, MillraceError, PermissionDenied, TooLarge
from shared.http import PROBLEM_JSON, body_of, json_response
from shared.values import aside, decode

# Of one message: the input of a run, and a commit of some files.
MOST_BYTES = 4 * 1024 * 1024
INSTRUCTIONS = "The tools are workflows of an organization in Millrace: a call is a run, and goes on if you stop waiting for it."
# Of clients of the revision before.
_TASKS: dict[str, Any] = {"cancel": {}, "requests": {"tools": {"call": {}}}}
# Seconds for which a client may keep what the server is capable of.
FRESH = 3600.0


class RpcMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message of JSON-RPC 2.0: a request, or a notification, which has no `id`."""

    jsonrpc: Literal["2.0"]
    method: str
    id: str | int | None = None
    params: dict[str, Any] = {}


_REFUSED = Reply(Any, other_media=(PROBLEM_JSON,))


@endpoint(
    "POST",
    "/mcp",
    role="viewer",
    delegates=True,
    documented=RpcMessage,
    body_limit=MOST_BYTES,
    headers=(
        Header(VERSION, "The revision of the protocol, else one that begins with `initialize`."),
        Header(METHOD, "The method again, where the revision asks for it."),
        Header(NAME, "The name or address that is asked for again, where the revision asks for it."),
    ),
    answers={
        200: Reply(Any, media="text/event-stream", other_media=("application/json",)),
        202: None,
        400: _REFUSED,
        404: _REFUSED,
        406: _REFUSED,
    },
    errors=(TooLarge,),
    example=Example(body={"jsonrpc": "2.0", "id": 1, "method": "tools/list"}),
)
async def serve_mcp(call: Call[None, Streamed]) -> web.StreamResponse:
    """Answer a message of the Model Context Protocol: workflows are its tools, and runs, logs and files its resources."""
    _check_origin(call)
    message: Any = None
    try:
        takes_stream = _takes_stream(call.request)
        raw = await body_of(call.request, MOST_BYTES)
        try:
            message = await aside(decode, raw, Any, size=len(raw))
        except (Malformed, Invalid) as error:
            raise RpcError(PARSE_ERROR, error.detail, status=400) from error
        request = read(message, call.request.headers)
        if request.id is None:
            return web.Response(status=202)
        method = _METHODS.get((request.is_modern, request.method))
        if method is None:
            status = 404 if request.is_modern else 200
            raise RpcError(NO_METHOD, f"there is no method {request.method[:80]!r}", status=status)
        found = await _called(method, Exchange(call, request, takes_stream))
        if isinstance(found, web.StreamResponse):
            return found
        return json_response(answer(request, found))
    except RpcError as error:
        return json_response(failure(id_of(message), error), status=error.status)


async def _called(method: Method, exchange: Exchange) -> Result:
    try:
        return await method(exchange)
    except MillraceError as error:
        raise refused(error) from error


def _check_origin(call: Call[Any, Any]) -> None:
    """Raise `PermissionDenied` for what a page of another origin has a browser send, once it is recorded."""
    gateway, request = call.gateway, call.request
    origin = request.headers.get("Origin")
    if origin is None or origin in origins_of(gateway.public_url) or origin in gateway.cors_origins:
        return
    denied(gateway, request, call.caller.actor, org=call.caller.org, outcome=PermissionDenied.kind, reason="origin")
    raise PermissionDenied("this was sent by a page of another origin")


def _takes_stream(request: web.Request) -> bool:
    """Return whether a client takes a stream of events. Raises `RpcError` for one that takes no JSON either."""
    found = {one.partition(";")[0].strip().lower() for one in request.headers.get("Accept", "*/*").split(",")}
    if "text/event-stream" in found:
        return True
    if found.isdisjoint({"application/json", "application/*", "*/*"}):
        raise RpcError(INVALID_REQUEST, "an answer is application/json, or text/event-stream: accept both", status=406)
    return False


async def initialize(exchange: Exchange) -> Result:
    """Answer the first request of a client of an earlier revision: that one, if it is spoken here, else the newest of them."""
    asked = exchange.request.params.get("protocolVersion")
    spoken = asked if asked in EARLIER else EARLIER[-1]
    return {
        "protocolVersion": spoken,
        "capabilities": _capabilities(tasks=_TASKS),
        "serverInfo": SERVER,
        "instructions": INSTRUCTIONS,
    }


async def discover(exchange: Exchange) -> Result:
    """Answer which revisions are spoken, and what can be asked for."""
    found = {
        "supportedVersions": list(SUPPORTED),
        "capabilities": _capabilities(extensions={tasks.EXTENSION: {}}),
        "instructions": INSTRUCTIONS,
    }
    return kept(exchange.request, found, FRESH)


async def ping(_exchange: Exchange) -> Result:
    """Answer that somebody is there."""
    return {}


def _capabilities(**more: Any) -> dict[str, Any]:
    return {"tools": {}, "resources": {}, "prompts": {}, "completions": {}} | more


_BOTH: dict[str, Method] = {
    "tools/list": tools.list_tools,
    "tools/call": tools.call_tool,
    "resources/list": resources.list_resources,
    "resources/templates/list": resources.list_templates,
    "resources/read": resources.read_resource,
    "prompts/list": prompts.list_prompts,
    "prompts/get": prompts.get_prompt,
    "completion/complete": resources.complete,
    "tasks/get": tasks.get_task,
    "tasks/cancel": tasks.cancel_task,
}
_EARLIER: dict[str, Method] = {"initialize": initialize, "ping": ping, "tasks/result": tools.wait_for_task} | _BOTH
_MODERN: dict[str, Method] = {"server/discover": discover, "tasks/update": tasks.update_task} | _BOTH
_METHODS = {
    **{(False, name): method for name, method in _EARLIER.items()},
    **{(True, name): method for name, method in _MODERN.items()},
}

ENDPOINTS = (serve_mcp,)
