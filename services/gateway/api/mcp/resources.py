"""Resources: files of the workspace, and runs with their lines, as endpoints of the API answer them."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from services.gateway.api.endpoint import Answer, Call, Endpoint
from services.gateway.api.files import content_of, get_file, list_files
from services.gateway.api.mcp.authoring import read_bytes
from services.gateway.api.mcp.exchange import Exchange, Result
from services.gateway.api.mcp.protocol import INVALID_PARAMS, RpcError, kept, listed
from services.gateway.api.runs import get_lines, get_run, list_runs
from services.gateway.api.workflows import get_workflow, list_workflows
from shared.errors import NotFound

FILES, RUNS, WORKFLOWS = "millrace://files/", "millrace://runs/", "millrace://workflows/"
JSON, TEXT = "application/json", "text/plain"
# Of a page of resources, and of the values that complete an argument.
MOST_LISTED, MOST_COMPLETED = 100, 100
TEMPLATES = (
    ("file", f"{FILES}{{+path}}", "A file of the workspace.", None, get_file),
    ("run", f"{RUNS}{{id}}", "A run: status, input, result, error.", JSON, get_run),
    ("lines", f"{RUNS}{{id}}/logs", "The lines of a run's output, in order.", TEXT, get_lines),
    ("workflow", f"{WORKFLOWS}{{name}}", "A workflow: its input schema, version and limits.", JSON, get_workflow),
)


async def list_resources(exchange: Exchange) -> Result:
    """Answer a page of the workspace's files; runs are found by their template."""
    request = exchange.request
    if not exchange.may(list_files):
        return listed(request, "resources", [], None)
    page = await exchange.of(list_files, query=_page(request.cursor))
    items = [{"uri": FILES + quote(one.path), "name": one.path, "size": one.size} for one in page.items]
    return listed(request, "resources", items, page.next_cursor)


async def list_templates(exchange: Exchange) -> Result:
    """Answer the forms of the addresses of resources that the caller may read."""
    items = [
        {"name": name, "uriTemplate": form, "description": said} | ({} if media is None else {"mimeType": media})
        for name, form, said, media, endpoint in TEMPLATES
        if exchange.may(endpoint)
    ]
    return listed(exchange.request, "resourceTemplates", items, None)


async def read_resource(exchange: Exchange) -> Result:
    """Answer the content of a resource."""
    uri = exchange.request.text("uri")
    try:
        content = await _content(exchange, uri)
    except NotFound as error:
        raise RpcError(INVALID_PARAMS, error.detail, data={"uri": uri}) from error
    return kept(exchange.request, {"contents": [{"uri": uri} | content]})


async def _content(exchange: Exchange, uri: str) -> dict[str, Any]:
    if uri.startswith(FILES):
        path = {"path": unquote(uri.removeprefix(FILES))}
        return _shown(await exchange.of(get_file, path=path, handler=_file))
    kind = next((one for one in (RUNS, WORKFLOWS) if uri.startswith(one)), "")
    name, _, part = unquote(uri.removeprefix(kind)).partition("/")
    if kind == WORKFLOWS and not part:
        return _json(await exchange.of(get_workflow, path={"name": name}))
    if kind == RUNS and not part:
        return _json(await exchange.of(get_run, path={"id": name}))
    if kind == RUNS and part == "logs":
        found = await exchange.of(get_lines, path={"id": name})
        said = "".join(f"{one.line.time} {one.line.level} {one.line.message} {_fields(one.line.fields)}\n" for one in found.items)
        more = "" if found.next_cursor is None else f"… more lines follow: millrace_read_lines after {found.next_cursor}\n"
        return {"mimeType": TEXT, "text": said + more}
    raise NotFound(f"there is no resource {uri[:200]!r}")


async def _file(call: Call[Any, None]) -> bytes:
    return await read_bytes(call, await content_of(call))


def _shown(data: bytes) -> dict[str, Any]:
    try:
        return {"mimeType": TEXT, "text": data.decode()}
    except UnicodeDecodeError:
        return {"mimeType": "application/octet-stream", "blob": base64.b64encode(data).decode()}


def _json(found: Any) -> dict[str, Any]:
    body = found.body if isinstance(found, Answer) else found
    return {"mimeType": JSON, "text": msgspec.json.encode(body).decode()}


def _fields(fields: dict[str, Any]) -> str:
    return msgspec.json.encode(fields).decode() if fields else ""


async def complete(exchange: Exchange) -> Result:
    """Answer values that complete an argument of a template: paths of files, ids of runs, names of workflows."""
    asked, argument = exchange.request.object("ref"), exchange.request.object("argument")
    name, value = argument.get("name"), argument.get("value", "")
    if not isinstance(value, str) or asked.get("type") not in ("ref/resource", "ref/prompt"):
        raise RpcError(INVALID_PARAMS, "completion is of an argument with a value that is text, of a ref/resource or a ref/prompt")
    values: list[str] = []
    more = False
    if asked.get("type") == "ref/resource" and isinstance(name, str) and name in _COMPLETED:
        endpoint, query, of = _COMPLETED[name]
        if exchange.may(endpoint):
            page = await exchange.of(endpoint, query=_page(None) | ({query: value} if query and value else {}))
            values = [found for one in page.items if (found := getattr(one, of)).startswith(value)][:MOST_COMPLETED]
            more = page.next_cursor is not None
    return {"completion": {"values": values, "hasMore": more}}


_COMPLETED: dict[str, tuple[Endpoint, str, str]] = {
    "path": (list_files, "prefix", "path"),
    "id": (list_runs, "id", "id"),
    "name": (list_workflows, "", "name"),
}


def _page(cursor: str | None) -> dict[str, Any]:
    return {"limit": MOST_LISTED} | ({} if cursor is None else {"cursor": cursor})
