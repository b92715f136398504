"""/api/v1/workspace/files: an organization's files, streamed both ways in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web

from services.gateway.api.access import Caller, audited, gateway_of
from services.gateway.api.content import Content, sent
from services.gateway.api.lists import page_of
from services.gateway.domain import tag_of
from services.gateway.parts import Gateway
from shared.envelope import new_id
from shared.errors import NotFound, PreconditionFailed, TooLarge
from shared.http import Arriving, Pace, json_response
from shared.questions.executor import FileView, GetFile, ListFiles, PutFile, RemoveFile

# Only who has a key sends files, they are never whole in memory, and a program may make one as it goes.
PACE = Pace(grace=60.0, rate=1024.0, whole=3600.0)
# What "If-None-Match: *" asks for: that there be no file yet.
ABSENT = ""


async def list_files(request: web.Request) -> web.Response:
    """GET: the files below `prefix`, by path."""
    gateway, caller = gateway_of(request)
    asked = ListFiles(org=caller.org, prefix=request.query.get("prefix", ""), page=page_of(request))
    return json_response(await gateway.bus.ask(asked))


@audited("file", "put", "path")
async def put_file(request: web.Request) -> web.Response:
    """PUT: take new content; answers when the workflows that it defines are served."""
    gateway, caller = gateway_of(request)
    path = request.match_info["path"]
    if request.content_length is not None and request.content_length > gateway.max_file:
        raise TooLarge(f"the file is larger than {gateway.max_file} bytes")
    expected = await _expected(request, gateway, caller)
    blob = await gateway.workspace.put(_parts(request), limit=gateway.max_file)
    view: FileView = await gateway.bus.ask(
        PutFile(
            id=new_id(),
            org=caller.org,
            actor=caller.actor,
            path=path,
            sha256=blob.sha256,
            size=blob.size,
            expected=expected,
        )
    )
    return json_response(view, headers={"ETag": f'"{view.sha256}"'})


async def get_file(request: web.Request) -> web.StreamResponse:
    """GET, HEAD: the content; its SHA-256 is its tag."""
    gateway, caller = gateway_of(request)
    view: FileView = await gateway.bus.ask(GetFile(org=caller.org, path=request.match_info["path"]))
    return await sent(request, Content(view.sha256, view.size), gateway.workspace)


@audited("file", "delete", "path")
async def delete_file(request: web.Request) -> web.Response:
    """DELETE: remove the file, and the workflows that it alone defined."""
    gateway, caller = gateway_of(request)
    expected = await _expected(request, gateway, caller)
    command = RemoveFile(id=new_id(), org=caller.org, actor=caller.actor, path=request.match_info["path"], expected=expected)
    return json_response(await gateway.bus.ask(command))


async def _expected(request: web.Request, gateway: Gateway, caller: Caller) -> str | None:
    if request.headers.get("If-None-Match") == "*":
        return ABSENT
    if_match = request.headers.get("If-Match")
    if if_match is None:
        return None
    if if_match.strip() == "*":
        try:
            view: FileView = await gateway.bus.ask(GetFile(org=caller.org, path=request.match_info["path"]))
        except NotFound as error:
            raise PreconditionFailed("If-Match: * wants the file to be there, and it is not") from error
        return view.sha256
    tag = tag_of(if_match)
    if not tag:
        raise PreconditionFailed("If-Match holds no tag that a file ever had")
    return tag


async def _parts(request: web.Request) -> AsyncIterator[bytes]:
    arriving = Arriving(request, PACE)
    while part := await arriving.part():
        yield part


ROUTES = [
    web.get("/workspace/files", list_files),
    web.put("/workspace/files/{path:.+}", put_file),
    web.get("/workspace/files/{path:.+}", get_file),
    web.delete("/workspace/files/{path:.+}", delete_file),
]
