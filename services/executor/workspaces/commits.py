"""Changes to a workspace's files: recorded all together or not at all, and registered once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from services.executor import domain
from services.executor.workspaces.registration import Registration, RegistrationDeps, registration
from services.executor.workspaces.views import file_view, workflow_entry
from shared import aggregate, db, errors
from shared.envelope import Sealed, derived_id, rfc3339
from shared.errors import Invalid, NotFound, PreconditionFailed, Unavailable
from shared.messages import FileChanged, FileRemoved, WorkflowChanged, WorkflowRemoved, declaration_of
from shared.messages.declaration import hashed_key
from shared.questions import Command, fitting
from shared.questions.executor import CommitFiles, Committed, FileChange, FileView, PutFile, RemoveFile

# Look-ups that wait for the broker or the database at a time, for one commit.
AT_ONCE = 16

A = TypeVar("A")
B = TypeVar("B")


async def commit_files(command: CommitFiles, deps: RegistrationDeps) -> Committed:
    """Change many files and register the workspace's workflows once."""
    registered = await _commit(command, command.changes, deps)
    paths = [change.path for change in command.changes if change.sha256 is not None]
    return Committed(
        # One that is not there any more was removed by a later commit, before this one was answered.
        files=[view for path in paths if (view := await _view(command.org, path, registered, deps, own=True)) is not None],
        removed=[change.path for change in command.changes if change.sha256 is None],
        problems=fitting(registered.problems),
    )


async def put_file(command: PutFile, deps: RegistrationDeps) -> FileView:
    """Change one file, likewise."""
    change = FileChange(path=command.path, sha256=command.sha256, size=command.size, expected=command.expected)
    registered = await _commit(command, [change], deps)
    view = await _view(command.org, command.path, registered, deps, own=False)
    if view is None:
        raise NotFound(f"there is no file {command.path}")
    return view


async def remove_file(command: RemoveFile, deps: RegistrationDeps) -> FileView:
    """Remove one file, likewise."""
    row = await deps.store.file(command.org, domain.checked_path(command.path))
    if row is None:
        raise NotFound(f"there is no file {command.path}")
    registered = await _commit(command, [FileChange(path=command.path, expected=command.expected)], deps)
    return FileView(path=command.path, sha256=row["sha256"], size=row["size"], updated_at="", problems=registered.problems)


async def _commit(command: Command, changes: list[FileChange], deps: RegistrationDeps) -> Registration:
    """Record the changes, unless an earlier sending of the command has, and with them what they make of the workflows."""
    domain.check_changes({change.path: change.sha256 for change in changes}, len(changes))
    await _each((change for change in changes if change.sha256 is not None), lambda change: _check_content(change, deps))
    org = command.org
    async with db.held_lock(deps.database_url, f"workspace {org}", service="executor"):
        befores = await _each(changes, lambda change: aggregate.last(deps.bus.client, "file", hashed_key(org, change.path)))
        sealed = [_sealed(command, change, deps) for change in changes]
        appends: list[tuple[Sealed[Any], int]] = []
        files = await deps.store.tree(org)
        # All of them were recorded together: one that is there tells of the others, which may have changed since.
        if not any(before and before.envelope.id == one.envelope.id for before, one in zip(befores, sealed, strict=True)):
            for change, before, one in zip(changes, befores, sealed, strict=True):
                _expect(change, before)
                if change.sha256 is not None or _is_there(before):
                    appends.append((one, before.sequence if before else 0))
            await _check_places(org, changes, deps)
            files = domain.changed_tree(files, {change.path: change.sha256 for change in changes})
        try:
            found = await registration(org, files, [change.path for change in changes], deps)
        except Unavailable:
            # The files are safe all the same; the command that is sent again finds them, and registers them.
            await _record(appends, [], org, deps)
            raise
        keys = [change.key for change in found.changes]
        lasts = await _each(keys, lambda key: aggregate.last(deps.bus.client, "workflow", key))
        for message, last in zip(found.changes, lasts, strict=True):
            id_ = derived_id(command.id, declaration_of(message).type, message.name)
            appends.append((deps.bus.seal(message, org=org, id=id_), last.sequence if last else 0))
        await _record(appends, found.changes, org, deps)
        return found


async def _record(
    appends: list[tuple[Sealed[Any], int]], changes: list[WorkflowChanged | WorkflowRemoved], org: str, deps: RegistrationDeps
) -> None:
    """Store files and workflows together, as long as the broker takes them at once, and bring the registry to the latter."""
    if not appends:
        return
    last = 0
    for batch in aggregate.batches(appends):
        last = await aggregate.append_together(deps.bus.client, batch)
    for number, message in enumerate(reversed(changes)):
        entry = None
        if isinstance(message, WorkflowChanged):
            entry = workflow_entry(message, org, rfc3339(appends[-1 - number][0].envelope.time))
        await deps.workflows.put(message.key, last - number, entry)
    await deps.catalog.caught_up(last)


def _sealed(command: Command, change: FileChange, deps: RegistrationDeps) -> Sealed[FileChanged] | Sealed[FileRemoved]:
    """Return the message of a change; its id derives from the command's and the path."""
    key, path = hashed_key(command.org, change.path), change.path
    message: FileChanged | FileRemoved = FileRemoved(key=key, path=path, actor=command.actor)
    if change.sha256 is not None:
        message = FileChanged(key=key, path=path, sha256=change.sha256, size=change.size, actor=command.actor)
    return deps.bus.seal(message, org=command.org, id=derived_id(command.id, declaration_of(message).type, path))


async def _check_content(change: FileChange, deps: RegistrationDeps) -> None:
    sha256 = change.sha256 or ""
    blob = await deps.blobs.stat(sha256)
    if blob is None or blob.size != change.size:
        raise NotFound(f"the content {sha256[:12]}… of {change.path} was not uploaded")


async def _check_places(org: str, changes: list[FileChange], deps: RegistrationDeps) -> None:
    gone = [change.path for change in changes if change.sha256 is None]

    async def check(change: FileChange) -> None:
        other = await deps.store.in_the_way(org, change.path, gone)
        if other is not None:
            complaint = domain.clash(change.path, other)
            raise Invalid(f"{change.path} cannot be put there: {complaint}", errors=(errors.Problem("path", complaint),))

    await _each((change for change in changes if change.sha256 is not None), check)


def _is_there(before: aggregate.Stored | None) -> bool:
    return before is not None and before.envelope.type != declaration_of(FileRemoved).type


def _expect(change: FileChange, before: aggregate.Stored | None) -> None:
    if change.expected is None:
        return
    message = None if before is None else before.message()
    found = message.sha256 if isinstance(message, FileChanged) else ""
    if found != change.expected:
        raise PreconditionFailed(f"{change.path} is {found[:12] or 'not there'}, not {change.expected[:12] or 'absent'}")


async def _view(org: str, path: str, registered: Registration, deps: RegistrationDeps, *, own: bool) -> FileView | None:
    """Return a file with the problems of the workspace, or with those of its `own` only; None when it is not there."""
    row = await deps.store.file(org, path)
    if row is None:
        return None
    names = [workflow.name for workflow in registered.workflows if workflow.path == path]
    return file_view(row, names, [problem for problem in registered.problems if not own or problem.path == path])


async def _each(items: Iterable[A], look: Callable[[A], Awaitable[B]]) -> list[B]:
    """Return what `look` returns for each item, in order, `AT_ONCE` at a time. Raises what the first of them raises."""
    left, found = list(items), list[B]()
    while left:
        now, left = left[:AT_ONCE], left[AT_ONCE:]
        found += await asyncio.gather(*map(look, now))
    return found
