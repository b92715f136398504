"""/api/v1/workspace/commits: many files of a workspace as one version, as JSON or as a tar that is streamed in bounded memory."""

from __future__ import annotations

import asyncio
import base64
import binascii
import dataclasses
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec

from services.gateway.api.endpoint import Audit, Call, Example, Streamed, endpoint
from services.gateway.api.files import ABSENT, MessageQuery, arriving, nfc
from services.gateway.api.unpacking import ArchiveEntry, unpacked
from services.gateway.parts import Gateway
from shared.blobs import CHUNK
from shared.envelope import new_id
from shared.errors import Conflict, Invalid, NotFound, PreconditionFailed, Problem, TooLarge, UnsupportedMediaType
from shared.http import body_of
from shared.messages.catalog import FileProblem
from shared.questions.files import MOST_CHANGES, CommitFiles, Committed, FileChange, FileView, ListProblems
from shared.values import LONGEST_PATH, Path, Words, aside, decode

# Of a commit as JSON, which is whole in memory; a larger one comes as a tar.
JSON_COMMIT = 8 * 1024 * 1024
# Small files whose content is stored at a time; each is whole in memory.
AT_ONCE = 8
TAR = "application/x-tar"


class Commit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Files by path: new content in base64, null removes the file. `expected` holds the SHA-256 that must be there, or null."""

    files: dict[Path, str | None]
    expected: dict[Path, str | None] = {}
    message: Annotated[Words | None, msgspec.Meta(description="What the commit is for: its history and the audit show it.")] = None


class CommitQuery(MessageQuery, frozen=True, kw_only=True):
    """How a commit is meant."""

    dry_run: Annotated[bool, msgspec.Meta(description="Check everything, change nothing, and answer the problems.")] = False


class ProblemList(msgspec.Struct, frozen=True):
    """The problems of a workspace."""

    items: list[FileProblem]
    next_cursor: None = None


class CommitView(msgspec.Struct, frozen=True, kw_only=True):
    """Each file as the workspace has it now, with its problems, null where it was removed; and all problems."""

    files: dict[str, FileView | None]
    problems: list[FileProblem]
    building: bool = False
    """Whether packages are still being installed, without which the newest code cannot serve: it does once they are."""


@endpoint(
    "POST",
    "/api/v1/workspace/commits",
    role="developer",
    documented=Commit,
    body_limit=JSON_COMMIT,
    errors=(NotFound, PreconditionFailed, Conflict, TooLarge),
    audit=Audit("workspace", "commit"),
    example=Example(body={"files": {"flows/notes.txt": "aGVsbG8="}, "message": "say hello"}),
)
async def commit_files(call: Call[CommitQuery, Streamed]) -> CommitView:
    """Change files of the workspace, all of them or none, and register its workflows once.

    The body is JSON, or a tar (`application/x-tar`) of any size: an empty file `.wh.NAME` removes NAME, and the extended header
    `MILLRACE.expected` of a member holds the SHA-256 that must be there, nothing for no file.
    """
    media = call.request.content_type
    note = call.query.message
    if media == TAR:
        changes = await _stored(unpacked(arriving(call.request)), call.gateway)
    elif media in {"application/json", "application/octet-stream"}:
        changes, message = await _decoded(call)
        note = message or note
    else:
        raise UnsupportedMediaType(f"a commit is application/json or {TAR}")
    return await _recorded(call, changes, note)


@endpoint("GET", "/api/v1/workspace/problems", role="developer")
async def list_problems(call: Call[None, None]) -> ProblemList:
    """List why newer content of the workspace does not serve, and warnings: its code is read anew, unless all of it serves."""
    return ProblemList(await call.ask(ListProblems(org=call.caller.org)))


async def commit_whole(call: Call[CommitQuery, Commit]) -> CommitView:
    """Change files as a commit says that was decoded already."""
    return await _recorded(call, await _changes(call.body, call.gateway), call.body.message)


async def _recorded(call: Call[CommitQuery, Any], changes: list[FileChange], note: str | None) -> CommitView:
    caller, dry_run = call.caller, call.query.dry_run
    if dry_run:
        # What was only tried is no change: it does not read like one.
        call.verb = "check"
    if not changes:
        raise Invalid("a commit changes one file at least", errors=(Problem("files", "empty"),))
    call.note(target=changes[0].path if len(changes) == 1 else f"{len(changes)} files")
    if note is not None:
        call.note(message=note)
    command = CommitFiles(id=new_id(), org=caller.org, actor=caller.actor, changes=changes, note=note, dry_run=dry_run)
    return committed(await call.ask(command))


def committed(done: Committed) -> CommitView:
    """Return a commit as the API shows it."""
    return CommitView(
        files=dict.fromkeys(done.removed) | {view.path: view for view in done.files},
        problems=done.problems,
        building=done.building,
    )


async def _decoded(call: Call[CommitQuery, Streamed]) -> tuple[list[FileChange], str | None]:
    raw = await body_of(call.request, JSON_COMMIT)
    commit: Commit = await aside(decode, raw or b"{}", Commit, size=len(raw))
    return await _changes(commit, call.gateway), commit.message


async def _changes(commit: Commit, gateway: Gateway) -> list[FileChange]:
    """Store the content of a commit's files, and return its changes."""
    if (unchanged := next((path for path in commit.expected if path not in commit.files), None)) is not None:
        problem = Problem(f"expected.{unchanged}"[:LONGEST_PATH], "is no file that this commit changes")
        raise Invalid(f"{unchanged[:120]!r} {problem.message}", errors=(problem,))

    async def entries() -> AsyncIterator[ArchiveEntry]:
        for path, content in commit.files.items():
            expected = (commit.expected[path] or ABSENT) if path in commit.expected else None
            if content is None:
                yield ArchiveEntry(path, None, 0, expected)
                continue
            try:
                data = base64.b64decode(content, validate=True)
            except (binascii.Error, ValueError) as error:
                problem = Problem(f"files.{path}", "no base64")
                raise Invalid(f"the content of {path[:120]} is no base64", errors=(problem,)) from error
            yield ArchiveEntry(path, _once(data), len(data), expected)

    return await _stored(entries(), gateway)


async def _stored(entries: AsyncIterator[ArchiveEntry], gateway: Gateway) -> list[FileChange]:
    """Store the content of each entry, and return the changes of the commit."""
    changes: list[FileChange] = []
    small: list[tuple[ArchiveEntry, bytes]] = []
    async for one in entries:
        entry = dataclasses.replace(one, path=nfc(one.path))
        if len(changes) + len(small) == MOST_CHANGES:
            raise TooLarge(f"a commit changes at most {MOST_CHANGES} files")
        if entry.size > gateway.max_file:
            raise TooLarge(f"{entry.path[:120]} is larger than {gateway.max_file} bytes")
        if entry.content is None:
            changes.append(FileChange(path=entry.path, expected=entry.expected))
        elif entry.size <= CHUNK:
            small.append((entry, b"".join([part async for part in entry.content])))
        else:
            changes.append(await _put(entry, entry.content, gateway))
        if len(small) == AT_ONCE:
            changes += await asyncio.gather(*(_put(each, _once(data), gateway) for each, data in small))
            small = []
    return changes + list(await asyncio.gather(*(_put(one, _once(data), gateway) for one, data in small)))


async def _put(entry: ArchiveEntry, content: AsyncIterator[bytes], gateway: Gateway) -> FileChange:
    blob = await gateway.workspace.put(content, limit=gateway.max_file)
    return FileChange(path=entry.path, sha256=blob.sha256, size=blob.size, expected=entry.expected)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


ENDPOINTS = (commit_files, list_problems)
