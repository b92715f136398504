"""/api/v1/workspace/sync and /workspace/git: the workspace beside the organization's repository, and what brings them together."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import msgspec

from services.gateway.api.endpoint import Audit, Call, Example, endpoint
from shared.envelope import new_id
from shared.errors import Conflict, Invalid, NotFound, PermissionDenied, Problem, TooLarge
from shared.questions.files import MOST_CHANGES
from shared.questions.repositories import Choice, LookAtRepository, SyncConflict, Synced, SyncRepository, SyncStatus
from shared.questions.resources import ListResources, of
from shared.resources.repository import Repository
from shared.values import Path, Words

GIT = "/api/v1/workspace/git"
# A resolution with contents, which is whole in memory.
RESOLUTION = 8 * 1024 * 1024
REACHING = (NotFound, PermissionDenied, TooLarge)
Paths = Annotated[list[Path], msgspec.Meta(max_length=MOST_CHANGES, description="Only these paths; all unless given.")]
Message = Annotated[Words, msgspec.Meta(description="The message of the commit.")]
Accepts = Annotated[bool, msgspec.Meta(description="Go on where the branch was rewritten, or is to be made beside others.")]


class SyncBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be brought together, and how."""

    message: Message | None = None
    paths: Paths = []
    accept_history: Accepts = False


class PullBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be pulled."""

    paths: Paths = []
    accept_history: Accepts = False


class DiscardBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which changes of the workspace are given up."""

    paths: Annotated[list[Path], msgspec.Meta(max_length=MOST_CHANGES, description="The paths of the changes.")] = []
    all: Annotated[bool, msgspec.Meta(description="Every change that would be pushed.")] = False
    accept_history: Accepts = False


class Resolution(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one conflict is settled."""

    path: Path
    take: Annotated[
        Literal["ours", "theirs", "content"],
        msgspec.Meta(description="The workspace's content, the repository's, or the one given here."),
    ]
    content: Annotated[str, msgspec.Meta(description="The content in base64.")] | None = None


class ResolveBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How conflicts are settled."""

    resolutions: Annotated[list[Resolution], msgspec.Meta(min_length=1, max_length=100)]
    accept_history: Accepts = False


class PathsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which path to show."""

    path: Annotated[Path, msgspec.Meta(description="Only this path.")] | None = None


class ConflictList(msgspec.Struct, frozen=True):
    """The conflicts of a workspace and its repository."""

    items: list[SyncConflict]
    next_cursor: None = None


@endpoint("GET", f"{GIT}/status", role="viewer", errors=REACHING)
async def show_git_status(call: Call[None, None]) -> SyncStatus:
    """Look at the workspace beside its repository: what is to be pulled, pushed, and settled by a person."""
    return await call.ask(LookAtRepository(org=call.caller.org, repository=await _repository(call)))


@endpoint("GET", f"{GIT}/diff", role="viewer", errors=REACHING)
async def show_git_diff(call: Call[PathsQuery, None]) -> SyncStatus:
    """Look at it with a unified difference of each file that is to be pulled or pushed, as far as they have room."""
    return await call.ask(
        LookAtRepository(org=call.caller.org, repository=await _repository(call), diffs=True, paths=_asked(call.query))
    )


@endpoint("GET", f"{GIT}/conflicts", role="viewer", errors=REACHING)
async def list_git_conflicts(call: Call[PathsQuery, None]) -> ConflictList:
    """List the conflicts with the content of both sides and of what both had last, where it is text and has room."""
    asked = LookAtRepository(org=call.caller.org, repository=await _repository(call), contents=True, paths=_asked(call.query))
    return ConflictList((await call.ask(asked)).conflicts)


@endpoint("POST", "/api/v1/workspace/sync", role="developer", errors=(*REACHING, Conflict), audit=Audit("workspace", "sync"))
async def sync_workspace(call: Call[None, SyncBody]) -> Synced:
    """Pull what the repository has changed, push what the workspace has, and say what both have: those files stay as they are.

    Answers what was pulled and pushed, and the conflicts; no path is in two of them.
    """
    body = call.body
    return await _done(call, "sync", message=body.message, paths=body.paths, accepts_history=body.accept_history)


@endpoint("POST", f"{GIT}/pull", role="developer", errors=(*REACHING, Conflict), audit=Audit("workspace", "pull"))
async def pull_workspace(call: Call[None, PullBody]) -> Synced:
    """Take what the repository has changed into the workspace, as one commit, and nothing of what both have changed."""
    body = call.body
    return await _done(call, "pull", paths=body.paths, accepts_history=body.accept_history)


@endpoint("POST", f"{GIT}/push", role="developer", errors=(*REACHING, Conflict), audit=Audit("workspace", "push"))
async def push_workspace(call: Call[None, SyncBody]) -> Synced:
    """Push what the workspace has changed, as one commit of who asks, and nothing of what both have changed."""
    body = call.body
    return await _done(call, "push", message=body.message, paths=body.paths, accepts_history=body.accept_history)


@endpoint(
    "POST",
    f"{GIT}/resolve",
    role="developer",
    body_limit=RESOLUTION,
    errors=(*REACHING, Conflict),
    audit=Audit("workspace", "resolve"),
    example=Example(body={"resolutions": [{"path": "flows/notes.txt", "take": "ours"}]}),
)
async def resolve_git_conflicts(call: Call[None, ResolveBody]) -> Synced:
    """Settle conflicts: each path gets one side's content, or a given one; what the repository has not is to be pushed then."""
    choices = []
    for one in call.body.resolutions:
        if (one.content is None) == (one.take == "content"):
            detail = f"{one.path[:120]}: a content is given where it is what is taken, and nowhere else"
            raise Invalid(detail, errors=(Problem("content", "does not fit"),))
        sha256, size = await _stored(call, one.path, one.content)
        choices.append(Choice(path=one.path, take=one.take, sha256=sha256, size=size))
    if len({one.path for one in choices}) != len(choices):
        raise Invalid("a path comes twice", errors=(Problem("resolutions", "a path comes twice"),))
    call.note(target=choices[0].path if len(choices) == 1 else f"{len(choices)} files")
    return await _done(call, "resolve", choices=choices, accepts_history=call.body.accept_history)


@endpoint(
    "POST",
    f"{GIT}/discard",
    role="developer",
    errors=(*REACHING, Conflict),
    audit=Audit("workspace", "discard"),
    example=Example(body={"paths": ["flows/notes.txt"]}),
)
async def discard_workspace_changes(call: Call[None, DiscardBody]) -> Synced:
    """Give changes of the workspace up: each file becomes what the repository has, and goes where that has none."""
    body = call.body
    if body.all == bool(body.paths):
        raise Invalid("either paths are given, or all", errors=(Problem("paths", "or all"),))
    return await _done(call, "discard", paths=body.paths, accepts_history=body.accept_history)


async def _repository(call: Call[Any, Any], *, is_target: bool = False) -> Repository:
    """Return the organization's repository, for the audit the target of the call. Raises `NotFound`."""
    page = await call.ask(of(ListResources, "repository", org=call.caller.org))
    if not page.items:
        raise NotFound(f"the organization {call.caller.org} has no repository: put one below /api/v1/repositories")
    if is_target:
        call.note(target=page.items[0]["name"])
    return msgspec.convert(page.items[0], Repository)


async def _done(call: Call[Any, Any], do: Any, **how: Any) -> Synced:
    caller = call.caller
    repository = await _repository(call, is_target=do != "resolve")
    command = SyncRepository(id=new_id(), org=caller.org, actor=caller.actor, repository=repository, do=do, **how)
    return await call.ask(command)


def _asked(query: PathsQuery) -> list[str]:
    return [] if query.path is None else [query.path]


async def _stored(call: Call[Any, Any], path: str, content: str | None) -> tuple[str | None, int]:
    if content is None:
        return None, 0
    try:
        data = await asyncio.to_thread(base64.b64decode, content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid(f"the content of {path[:120]} is no base64", errors=(Problem("content", "no base64"),)) from error

    async def parts() -> AsyncIterator[bytes]:
        yield data

    blob = await call.gateway.workspace.put(parts(), limit=call.gateway.max_file)
    return blob.sha256, blob.size


ENDPOINTS = (
    show_git_status,
    show_git_diff,
    list_git_conflicts,
    sync_workspace,
    pull_workspace,
    push_workspace,
    resolve_git_conflicts,
    discard_workspace_changes,
)
"""The endpoints of this module."""
