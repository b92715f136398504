"""The Model Context Protocol on the wire: its revisions, messages and errors, and the headers that repeat what a message says.

Two ways of it are spoken: that of 2026-07-28, where each request says its revision itself, and the one before, which begins with
`initialize`. Neither has a session here: what a request means is in it and in its key, so that any replica answers any.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import msgspec

from shared.errors import Conflict, Invalid, Malformed, MillraceError, NotFound, PermissionDenied, PreconditionFailed, TooMany
from shared.values import at

MODERN = "2026-07-28"
# Those that begin with `initialize`; earlier ones have batches, or another transport.
EARLIER = ("2025-06-18", "2025-11-25")
SUPPORTED = (*EARLIER, MODERN)
VERSION, METHOD, NAME = "MCP-Protocol-Version", "Mcp-Method", "Mcp-Name"
# In `_meta` of a request.
VERSION_KEY, CAPABILITIES_KEY = "io.modelcontextprotocol/protocolVersion", "io.modelcontextprotocol/clientCapabilities"
SERVER_KEY = "io.modelcontextprotocol/serverInfo"
SERVER = {"name": "millrace", "title": "Millrace", "version": version("millrace")}
# What `Mcp-Name` repeats of the parameters.
_NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}

PARSE_ERROR, INVALID_REQUEST, NO_METHOD, INVALID_PARAMS = -32700, -32600, -32601, -32602
HEADER_MISMATCH, UNSUPPORTED_VERSION = -32020, -32022
# Of the range that is left to servers.
REFUSED, TRY_LATER, CONFLICT = -32010, -32011, -32012

MOST_ID = 200
_ENCODED = re.compile(r"=\?base64\?(.*)\?=")

Id = str | int | float | None


class RpcError(Exception):
    """A request that is answered by an error, with this status of HTTP."""

    def __init__(self, code: int, message: str, *, data: Any = None, status: int = 200) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data
        self.status = status


class RpcRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request, or a notification, which has no `id`; `is_modern`: of the revision that says so in each."""

    id: Id
    method: str
    params: dict[str, Any]
    is_modern: bool

    @property
    def meta(self) -> dict[str, Any]:
        """Return what is said beside the parameters."""
        found = self.params.get("_meta")
        return found if isinstance(found, dict) else {}

    def text(self, name: str) -> str:
        """Return a parameter that is text. Raises `RpcError`."""
        found = self.params.get(name)
        if not isinstance(found, str):
            raise RpcError(INVALID_PARAMS, f"{name} is {'missing' if found is None else 'no text'}")
        return found

    def object(self, name: str) -> dict[str, Any]:
        """Return a parameter that is an object, an empty one where it is left out. Raises `RpcError`."""
        found = self.params.get(name)
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise RpcError(INVALID_PARAMS, f"{name} is no object")
        return found

    @property
    def cursor(self) -> str | None:
        """Return the place at which a list goes on. Raises `RpcError`."""
        return None if self.params.get("cursor") is None else self.text("cursor")

    def takes(self, *path: str) -> bool:
        """Return whether the client of a modern request says that it is capable of something."""
        return at(self.meta.get(CAPABILITIES_KEY), list(path)) is not None


def id_of(message: Any) -> Id:
    """Return the id of what may be a request, None where it has none that can be repeated."""
    found = message.get("id") if isinstance(message, dict) else None
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        return None
    return found if not isinstance(found, str) or len(found) <= MOST_ID else None


def read(message: Any, headers: Mapping[str, str]) -> RpcRequest:
    """Return the request or notification that a JSON value is. Raises `RpcError`."""
    if isinstance(message, list):
        raise _wrong("several messages at once are not taken: send each by itself")
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise _wrong("this is no message of JSON-RPC 2.0")
    method = message.get("method")
    if not isinstance(method, str):
        raise _wrong("a message is a request or a notification, and has a method")
    if "id" in message and id_of(message) is None:
        raise _wrong(f"an id is a number, or text of at most {MOST_ID} characters")
    params = {} if message.get("params") is None else message["params"]
    if not isinstance(params, dict):
        raise _wrong("params is an object")
    said = at(params, ["_meta", VERSION_KEY])
    header = headers.get(VERSION)
    is_modern = header == MODERN or (said is not None and "id" in message)
    if header is not None and header not in SUPPORTED:
        raise _unsupported(header)
    if is_modern and "id" in message:
        _check_headers(method, params, headers)
        if said not in SUPPORTED:
            raise _unsupported(said)
        if not isinstance(at(params, ["_meta", CAPABILITIES_KEY]), dict):
            raise RpcError(INVALID_PARAMS, f"_meta lacks {CAPABILITIES_KEY}", status=400)
    return RpcRequest(id=id_of(message), method=method, params=params, is_modern=is_modern)


def _check_headers(method: str, params: dict[str, Any], headers: Mapping[str, str]) -> None:
    """Raise `RpcError` where a proxy that reads the headers would take the request for another one."""
    expected = [(VERSION, at(params, ["_meta", VERSION_KEY]), headers.get(VERSION)), (METHOD, method, headers.get(METHOD))]
    if (named := _NAMED.get(method)) is not None and params.get(named) is not None:
        expected.append((NAME, params[named], _decoded(headers.get(NAME))))
    for header, body, found in expected:
        if found is None or found != body:
            what = "is missing" if headers.get(header) is None else "is not what the message says"
            raise RpcError(HEADER_MISMATCH, f"the header {header} {what}", status=400)


def _decoded(value: str | None) -> str | None:
    """Return a header's value, of which one that is no plain text is in base64; None for one that cannot be read."""
    if value is None or (found := _ENCODED.fullmatch(value)) is None:
        return value
    try:
        return base64.b64decode(found[1], validate=True).decode()
    except (binascii.Error, ValueError):
        return None


def _wrong(message: str) -> RpcError:
    return RpcError(INVALID_REQUEST, message, status=400)


def _unsupported(asked: Any) -> RpcError:
    data = {"supported": list(SUPPORTED), "requested": asked}
    return RpcError(UNSUPPORTED_VERSION, "this revision of the protocol is not spoken here", data=data, status=400)


def refused(error: MillraceError) -> RpcError:
    """Return an error of the tree as a client of the protocol is told of it."""
    data: dict[str, Any] = {"kind": error.kind}
    if error.errors:
        data["errors"] = error.errors
    if error.retry_after is not None:
        data["retry_after"] = error.retry_after
    code = INVALID_PARAMS if isinstance(error, Invalid | Malformed | NotFound) else TRY_LATER
    if isinstance(error, PermissionDenied):
        code = REFUSED
    elif isinstance(error, Conflict | PreconditionFailed):
        code = CONFLICT
    elif not isinstance(error, TooMany) and error.status < 500:
        code = INVALID_PARAMS
    return RpcError(code, error.detail, data=data)


def answer(request: RpcRequest, result: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a request; that of a modern one says that it is all, unless `resultType` says more, and of whom."""
    if request.is_modern:
        result = {"resultType": "complete"} | result | {"_meta": {SERVER_KEY: SERVER} | result.get("_meta", {})}
    return {"jsonrpc": "2.0", "id": request.id, "result": result}


def failure(id_: Id, error: RpcError) -> dict[str, Any]:
    """Return the answer that tells an error."""
    told: dict[str, Any] = {"code": error.code, "message": error.message}
    return {"jsonrpc": "2.0", "id": id_, "error": told if error.data is None else told | {"data": error.data}}


def notification(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Return a message that wants no answer."""
    return {"jsonrpc": "2.0", "method": method, "params": params}


def listed(request: RpcRequest, name: str, items: list[dict[str, Any]], cursor: str | None) -> dict[str, Any]:
    """Return a page of a list."""
    return kept(request, {name: items} | ({} if cursor is None else {"nextCursor": cursor}))


def kept(request: RpcRequest, result: dict[str, Any], seconds: float = 0.0) -> dict[str, Any]:
    """Return a result that says for how long a client may keep it; never for the clients of other keys."""
    return result | {"ttlMs": int(seconds * 1000), "cacheScope": "private"} if request.is_modern else result
