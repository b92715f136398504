"""/api/v1/workspace/files: an organization's files, streamed both ways in bounded memory."""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from aiohttp import web

from services.gateway.api.content import CONTENT, IF_RANGE, RANGE, Content, sent
from services.gateway.api.endpoint import (
    CACHED,
    ETAG,
    IF_MATCH,
    IF_NONE_MATCH,
    Answer,
    Audit,
    Call,
    Example,
    Reply,
    Streamed,
    endpoint,
)
from services.gateway.api.lists import Paged
from services.gateway.domain import tags_of
from shared.envelope import new_id
from shared.errors import Conflict, Malformed, NotFound, PreconditionFailed, RangeNotSatisfiable, TooLarge
from shared.http import Arriving, Pace
from shared.questions.files import FileList, FileView, GetFile, GetVersion, ListFiles, PutFile, RemoveFile, VersionView
from shared.values import Opaque, Words

# Any character: a path with a line break is refused by its owner, with a reason.
FILE = r"/api/v1/workspace/files/{path:[\s\S]+}"
# Only callers with a key send files, they are never whole in memory, and a program may make one as it goes.
PACE = Pace(grace=60.0, rate=1024.0, whole=3600.0)
# "If-None-Match: *" asks that there be no file yet.
ABSENT = ""
# A hash that no file has, for a tag that none ever had.
NONE = "-"


class MessageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What a change is for."""

    message: Annotated[Words, msgspec.Meta(description="What the change is for: its history and the audit show it.")] | None = None


class FileQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which content of a file."""

    version: Annotated[
        Opaque, msgspec.Meta(description="The version to send, as the history names it; else the file as it is.")
    ] | (None) = None


class FilesQuery(Paged, frozen=True, kw_only=True):
    """Filters for a list of files."""

    prefix: Annotated[str, msgspec.Meta(description="How the path begins.")] = ""


@endpoint("GET", "/api/v1/workspace/files", role="viewer", errors=(Malformed,), example=Example(query={"prefix": "flows/"}))
async def list_files(call: Call[FilesQuery, None]) -> FileList:
    """List the files of the workspace, by path."""
    return await call.ask(ListFiles(org=call.caller.org, prefix=call.query.prefix, page=call.query.page))


@endpoint(
    "PUT",
    FILE,
    role="developer",
    answers={200: Reply(FileView, headers=(ETAG,))},
    headers=(IF_MATCH, IF_NONE_MATCH),
    errors=(PreconditionFailed, Conflict),
    audit=Audit("file", "put", "path"),
)
async def put_file(call: Call[MessageQuery, Streamed]) -> Answer:
    """Take new content of a file; answers when the workflows that it defines are served, with the problems of its code."""
    gateway, caller, request = call.gateway, call.caller, call.request
    if request.content_length is not None and request.content_length > gateway.max_file:
        raise TooLarge(f"the file is larger than {gateway.max_file} bytes")
    expected = await _expected(call)
    blob = await gateway.workspace.put(arriving(request), limit=gateway.max_file)
    view = await call.ask(
        PutFile(
            id=new_id(),
            org=caller.org,
            actor=caller.actor,
            path=path_of(call),
            sha256=blob.sha256,
            size=blob.size,
            expected=expected,
            note=_noted(call),
        )
    )
    return Answer(body=view, tag=view.sha256)


@endpoint(
    "GET",
    FILE,
    role="viewer",
    answers=CONTENT,
    headers=(CACHED, RANGE, IF_RANGE),
    errors=(NotFound, RangeNotSatisfiable),
)
async def get_file(call: Call[FileQuery, None]) -> web.StreamResponse:
    """Send a file's content, or one range of it, as it is or as it was; its SHA-256 is its tag."""
    found = await content_of(call)
    return await sent(call.request, Content(found.sha256 or "", found.size), call.gateway.workspace)


async def content_of(call: Call[FileQuery, Any]) -> FileView | VersionView:
    """Return the file that is asked for, as it is or as it was. Raises `NotFound`."""
    if call.query.version is None:
        return await call.ask(GetFile(org=call.caller.org, path=path_of(call)))
    old = await call.ask(GetVersion(org=call.caller.org, path=path_of(call), version=call.query.version))
    if old.sha256 is None:
        raise NotFound(f"{old.path[:120]} was not there in that version: it was removed by it")
    return old


@endpoint(
    "DELETE",
    FILE,
    role="developer",
    headers=(IF_MATCH, IF_NONE_MATCH),
    errors=(NotFound, PreconditionFailed, Conflict),
    audit=Audit("file", "delete", "path"),
)
async def delete_file(call: Call[MessageQuery, None]) -> FileView:
    """Remove a file, and the workflows that it alone defined."""
    caller = call.caller
    expected = await _expected(call)
    return await call.ask(
        RemoveFile(id=new_id(), org=caller.org, actor=caller.actor, path=path_of(call), expected=expected, note=_noted(call))
    )


def path_of(call: Call[Any, Any]) -> str:
    """Return the path in an address, as all are kept."""
    return nfc(call.path["path"])


def nfc(path: str) -> str:
    """Return a path in Unicode normal form C: some systems spell names in another."""
    return unicodedata.normalize("NFC", path)


def _noted(call: Call[MessageQuery, Any]) -> str | None:
    if call.query.message is not None:
        call.note(message=call.query.message)
    return call.query.message


async def _expected(call: Call[Any, Any]) -> str | None:
    """Return the SHA-256 that the file must have for the call's conditions, `ABSENT` for no file, None for any or none.

    A condition that one hash does not say is held against the file as it is now, which must then still be so.
    """
    if_match, if_none_match = (call.request.headers.get(name) for name in ("If-Match", "If-None-Match"))
    tags = None if if_match is None or if_match.strip() == "*" else tags_of(if_match, weak=False)
    if if_match is None and (if_none_match is None or if_none_match.strip() == "*"):
        return None if if_none_match is None else ABSENT
    if if_none_match is None and tags is not None and len(tags) == 1:
        return tags.pop() or NONE
    try:
        found = (await call.ask(GetFile(org=call.caller.org, path=path_of(call)))).sha256
    except NotFound:
        found = ABSENT
    if if_match is not None and (not found or (if_match.strip() != "*" and found not in (tags or ()))):
        raise PreconditionFailed(f"If-Match names no content that the file has: it is {found[:12] or 'not there'}")
    if if_none_match is not None:
        others = tags_of(if_none_match, weak=True) or ()
        if found and (if_none_match.strip() == "*" or found in others):
            raise PreconditionFailed(f"If-None-Match names the content that the file has: {found[:12]}")
    return found


async def arriving(request: web.Request) -> AsyncIterator[bytes]:
    """Yield a body as it comes."""
    body = Arriving(request, PACE)
    while part := await body.part():
        yield part


ENDPOINTS = (list_files, put_file, get_file, delete_file)
