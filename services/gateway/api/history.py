"""/api/v1/workspace history: versions of files, the commits that made them, and commits that move files or restore them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from services.gateway.api.commits import CommitView, committed
from services.gateway.api.endpoint import IF_MATCH, Audit, Call, Example, endpoint
from services.gateway.api.files import nfc
from services.gateway.api.lists import Paged
from services.gateway.domain import tags_of
from shared.envelope import new_id
from shared.errors import Conflict, Invalid, Malformed, NotFound, PreconditionFailed, Problem, TooLarge
from shared.questions.files import FileCommitList, ListFileCommits, ListVersions, MoveFiles, RestoreFiles, VersionList
from shared.values import Instant, Opaque, Path, Words


class HistoryQuery(Paged, frozen=True, kw_only=True):
    """Which versions."""

    path: Annotated[Path, msgspec.Meta(description="Those of this file.")] | None = None
    commit: Annotated[Opaque, msgspec.Meta(description="Those that this commit made.")] | None = None


class MoveBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """A file and its new path, or a folder and its new one: then both end with a slash. `overwrite` replaces what is there."""

    from_: Path
    to: Path
    overwrite: bool = False
    message: Words | None = None


class RestoreBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `version` of the file `path`, or `at`: a time whose files, below `prefix`, are to be there again and no others."""

    path: Path | None = None
    version: Opaque | None = None
    at: Instant | None = None
    prefix: Path | None = None
    message: Words | None = None


@endpoint("GET", "/api/v1/workspace/history", role="viewer", errors=(Malformed,), example=Example(query={"path": "flows/a.py"}))
async def list_history(call: Call[HistoryQuery, None]) -> VersionList:
    """List the kept versions of one file, of one commit or of all files, the newest first."""
    query = call.query
    return await call.ask(ListVersions(org=call.caller.org, path=query.path, commit=query.commit, page=query.page))


@endpoint("GET", "/api/v1/workspace/commits", role="viewer", errors=(Malformed,))
async def list_commits(call: Call[Paged, None]) -> FileCommitList:
    """List the commits of the workspace, the newest first: who made each, when, what for, and which files it changed."""
    return await call.ask(ListFileCommits(org=call.caller.org, page=call.query.page))


@endpoint(
    "POST",
    "/api/v1/workspace/moves",
    role="developer",
    headers=(IF_MATCH,),
    errors=(NotFound, PreconditionFailed, Conflict, TooLarge),
    audit=Audit("file", "move", "from_"),
    example=Example(body={"from": "flows/notes.txt", "to": "flows/moved.txt"}),
)
async def move_files(call: Call[None, MoveBody]) -> CommitView:
    """Give a file, or all below a folder, another path in one commit; no content is copied."""
    body = call.body
    call.note(to=body.to, **_message(body.message))
    command = MoveFiles(
        id=new_id(),
        org=call.caller.org,
        actor=call.caller.actor,
        path=nfc(body.from_),
        to=nfc(body.to),
        expected=_expected(call),
        overwrite=body.overwrite,
        note=body.message,
    )
    return committed(await call.ask(command))


@endpoint(
    "POST",
    "/api/v1/workspace/restores",
    role="developer",
    errors=(NotFound, Conflict, TooLarge),
    audit=Audit("workspace", "restore"),
    example=Example(body={"at": "2026-01-01T00:00:00Z", "prefix": "none/"}),
)
async def restore_files(call: Call[None, RestoreBody]) -> CommitView:
    """Bring back a version of a file, or all files as they were at a time, as a new commit."""
    body = call.body
    # All of the workspace is another thing than a file of it: nothing of what was meant is passed over.
    of_file, of_time = (body.path, body.version), (body.at, body.prefix)
    if (None in of_file or of_time != (None, None)) and (body.at is None or of_file != (None, None)):
        raise Invalid("give `path` and `version`, or `at` and perhaps `prefix`", errors=(Problem("at", "or path and version"),))
    call.note(target=body.path or body.prefix or "all files", **_message(body.message))
    command = RestoreFiles(
        id=new_id(),
        org=call.caller.org,
        actor=call.caller.actor,
        path=body.path,
        version=body.version,
        at=body.at,
        prefix=body.prefix or "",
        note=body.message,
    )
    return committed(await call.ask(command))


def _message(message: str | None) -> dict[str, Any]:
    return {} if message is None else {"message": message}


def _expected(call: Call[Any, Any]) -> str | None:
    if_match = call.request.headers.get("If-Match")
    if if_match is None or if_match.strip() == "*":
        return None
    tags = tags_of(if_match, weak=False)
    if not tags or len(tags) > 1:
        raise PreconditionFailed("If-Match of a move takes one tag")
    return tags.pop()


ENDPOINTS = (list_history, list_commits, move_files, restore_files)
