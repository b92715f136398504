"""Changes to a workspace's files: recorded all together or not at all, and registered once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import structlog

from services.executor import domain
from services.executor.environments.requirements import PROJECT, REQUIREMENTS
from services.executor.workspaces.registration import Change, Registration, RegistrationDeps, active_code, entry_of, registration
from services.executor.workspaces.retention import trimming
from services.executor.workspaces.views import file_view, names_by_path
from shared import aggregate, db, tasks
from shared.envelope import Sealed, derived_id, new_id, rfc3339
from shared.errors import Invalid, NotFound, PreconditionFailed, Problem, Unavailable
from shared.messages import AdapterChanged, FileChanged, FileRemoved, WorkflowChanged, declaration_of
from shared.messages.catalog import FileProblem
from shared.messages.declaration import hashed_key
from shared.questions import fitting
from shared.questions.adapters import AdapterEntry
from shared.questions.environments import BuildEnvironments
from shared.questions.files import (
    CommitFiles,
    Committed,
    FileChange,
    FileView,
    ListProblems,
    MoveFiles,
    PutFile,
    RemoveFile,
    RestoreFiles,
)
from shared.questions.workflows import WorkflowEntry

# Bytes of problems in the answer to a commit, twice, beside its files.
PROBLEMS = 256 * 1024
# Seconds within which the rows of a commit are written, at least, and for each of its messages: the answer shows no file without.
ROWS_WITHIN = 10.0
ROW_WITHIN = 0.01
# Look-ups that wait for the broker or the database at a time, for one commit.
AT_ONCE = 16
# Seconds that a command waits for environments, within its time-out; what is not there then is registered when it is.
PATIENCE, FILE_PATIENCE = 60.0, 40.0
# The commands that change files.
Committing = CommitFiles | PutFile | RemoveFile | MoveFiles | RestoreFiles
# What the rows of a workspace are made from.
NOUNS = ("file", "workflow", "adapter")
_log = structlog.get_logger()


async def commit_files(command: CommitFiles, deps: RegistrationDeps) -> Committed:
    """Change many files and register the workspace's workflows once."""
    return await commit_changes(command, command.changes, deps)


async def commit_with(command: CommitFiles, besides: Sequence[tuple[Sealed[Any], int]], deps: RegistrationDeps) -> Committed:
    """Change many files, likewise, and store other messages of the catalog together with them, each as it expects.

    Raises `Conflict` where something of either has changed since; then nothing of both is recorded.
    """
    return await commit_changes(command, command.changes, deps, besides)


async def commit_changes(
    command: Committing, changes: list[FileChange], deps: RegistrationDeps, besides: Sequence[tuple[Sealed[Any], int]] = ()
) -> Committed:
    """Do so for a command whose changes are these."""
    registered = await _commit(command, changes, deps, PATIENCE, besides)
    if _is_tried(command):
        return Committed(files=[], removed=[], problems=fitting(registered.problems, PROBLEMS), building=registered.is_building)
    # One that is not there any more was removed by a later commit, before this one was answered.
    paths = [change.path for change in changes if change.sha256 is not None]
    rows = await deps.store.files_at(command.org, paths)
    names: dict[str, list[str]] = {}
    for workflow in registered.workflows:
        names.setdefault(workflow.path, []).append(workflow.name)
    adapters = names_by_path(await deps.store.adapters(command.org))
    problems = fitting(registered.problems, PROBLEMS)
    own: dict[str, list[FileProblem]] = {}
    for problem in problems:
        own.setdefault(problem.path, []).append(problem)
    return Committed(
        files=[
            file_view(rows[path], names.get(path, []), own.get(path, []), adapters.get(path, [])) for path in paths if path in rows
        ],
        removed=[change.path for change in changes if change.sha256 is None],
        problems=problems,
        building=registered.is_building,
    )


async def build_environments(command: BuildEnvironments, deps: RegistrationDeps) -> Committed:
    """Resolve what a workspace asks for anew, and register it."""
    deps.builds.forget(command.org)
    registered = await register(command.org, deps, refreshes=True)
    if registered.is_building and await deps.builds.settled(command.org, PATIENCE):
        registered = await register(command.org, deps, refreshes=True)
    return Committed(files=[], removed=[], problems=fitting(registered.problems, PROBLEMS), building=registered.is_building)


async def list_problems(asked: ListProblems, deps: RegistrationDeps) -> list[FileProblem]:
    """Return what keeps a workspace, as it is, from serving; nothing is recorded."""
    files, sizes = await deps.store.tree(asked.org)
    found = await registration(asked.org, files, sizes, files, deps, is_anew=True)
    return fitting(found.problems, PROBLEMS)


async def put_file(command: PutFile, deps: RegistrationDeps) -> FileView:
    """Change one file, likewise."""
    change = FileChange(path=command.path, sha256=command.sha256, size=command.size, expected=command.expected)
    registered = await _commit(command, [change], deps, FILE_PATIENCE)
    row = await deps.store.file(command.org, command.path)
    if row is None:
        raise NotFound(f"there is no file {command.path}")
    names = [workflow.name for workflow in registered.workflows if workflow.path == row["path"]]
    adapters = names_by_path(await deps.store.adapters(command.org))
    return file_view(row, names, registered.problems, adapters.get(row["path"], []))


async def remove_file(command: RemoveFile, deps: RegistrationDeps) -> FileView:
    """Remove one file, likewise."""
    row = await deps.store.file(command.org, domain.checked_path(command.path))
    if row is None:
        raise NotFound(f"there is no file {command.path}")
    registered = await _commit(command, [FileChange(path=command.path, expected=command.expected)], deps, FILE_PATIENCE)
    return FileView(path=command.path, sha256=row["sha256"], size=row["size"], updated_at="", problems=registered.problems)


async def _commit(
    command: Committing,
    changes: list[FileChange],
    deps: RegistrationDeps,
    patience: float,
    besides: Sequence[tuple[Sealed[Any], int]] = (),
) -> Registration:
    """Record the changes, unless an earlier sending of the command has, and with them the changed workflows.

    Where an environment is to be built first, waits so many seconds for it, and for the registration that follows.
    """
    registered = await _committed(command, changes, deps, besides)
    if registered.is_building and await deps.builds.settled(command.org, patience):
        return await (_committed(command, changes, deps, besides) if _is_tried(command) else register(command.org, deps))
    return registered


def _is_tried(command: Committing) -> bool:
    """Return whether a command changes nothing."""
    return isinstance(command, CommitFiles) and command.dry_run


async def register(org: str, deps: RegistrationDeps, *, refreshes: bool = False) -> Registration:
    """Register a workspace as it is, for what has changed beside its files. Raises `Unavailable`.

    With `refreshes` its environments are those that its requirements resolve to now, not those that serve.
    """
    async with db.held_lock(deps.database_url, f"workspace {org}", service="executor"):
        if not await deps.catalog.caught_up(await aggregate.newest(deps.bus.client, *NOUNS)):
            raise Unavailable("the rows of the workspace are behind")
        files, sizes = await deps.store.tree(org)
        found = await registration(org, files, sizes, files, deps, is_anew=True, refreshes=refreshes)
        appends = await _of_changes(found, new_id(), org, deps)
        await _record(appends, found.changes, org, deps)
        return found


async def resume(deps: RegistrationDeps) -> None:
    """Register the workspaces whose packages were still being installed when an executor ended. Raises nothing."""
    for org in await deps.store.organizations_with((REQUIREMENTS, PROJECT)):
        try:
            files, _ = await deps.store.tree(org)
            active = await active_code(org, deps)
            if any(files.get(path) != (active.files.get(path) if active else None) for path in (REQUIREMENTS, PROJECT)):
                await register(org, deps)
        except Unavailable as error:
            _log.warning("workspace.not_resumed", org=org, reason=error.detail)


async def _of_changes(found: Registration, cause: str, org: str, deps: RegistrationDeps) -> list[tuple[Sealed[Any], int]]:
    """Return the messages of what changes, each with the sequence that it expects."""
    lasts = await tasks.each(
        AT_ONCE, found.changes, lambda change: aggregate.last(deps.bus.client, declaration_of(change).noun, change.key)
    )
    return [
        (deps.bus.seal(one, org=org, id=derived_id(cause, declaration_of(one).type, one.name)), last.sequence if last else 0)
        for one, last in zip(found.changes, lasts, strict=True)
    ]


async def _committed(
    command: Committing, changes: list[FileChange], deps: RegistrationDeps, besides: Sequence[tuple[Sealed[Any], int]]
) -> Registration:
    domain.check_changes([change.path for change in changes])
    new = [change for change in changes if change.sha256 is not None]
    await tasks.each(AT_ONCE, new, lambda change: _check_content(change, deps))
    org = command.org
    keys = [hashed_key(org, change.path) for change in changes]
    async with db.held_lock(deps.database_url, f"workspace {org}", service="executor"):
        # The rows hold all other files: an earlier commit, of any replica, may not be in them yet.
        if not await deps.catalog.caught_up(await aggregate.newest(deps.bus.client, *NOUNS)):
            raise Unavailable("the rows of the workspace are behind")
        befores = await tasks.each(AT_ONCE, keys, lambda key: aggregate.last(deps.bus.client, "file", key))
        sealed = [_sealed(command, change, deps) for change in changes]
        appends: list[tuple[Sealed[Any], int]] = []
        files, sizes = await deps.store.tree(org)
        # All of them were recorded together: one that is there proves the others, which may have changed since.
        if not any(before and before.envelope.id == one.envelope.id for before, one in zip(befores, sealed, strict=True)):
            for change, before, one in zip(changes, befores, sealed, strict=True):
                _expect(change, before)
                if change.sha256 is not None or _is_there(before):
                    appends.append((one, before.sequence if before else 0))
                elif isinstance(command, RemoveFile):
                    # Another removal came first, since the look at the row.
                    raise NotFound(f"there is no file {change.path}")
            appends += besides
            latest = files
            files = domain.changed_tree(files, {change.path: change.sha256 for change in changes})
            before_sizes = dict(sizes)
            sizes |= {change.path: change.size for change in new}
            _check_stored(org, sum(sizes[path] for path in files), sum(before_sizes.values()), deps)
            appends += await trimming(org, command.id, latest, before_sizes, files, sizes, deps)
            # Aside: a workspace may have very many files.
            await asyncio.to_thread(domain.check_places, files, [change.path for change in changes if change.path in files])
        try:
            found = await registration(org, files, sizes, [change.path for change in changes], deps)
        except Unavailable:
            if _is_tried(command):
                raise
            # The files are safe all the same; the command that is sent again finds them, and registers them.
            await _record(appends, [], org, deps)
            raise
        if _is_tried(command):
            return found
        appends += await _of_changes(found, command.id, org, deps)
        await _record(appends, found.changes, org, deps)
        return found


async def _record(appends: list[tuple[Sealed[Any], int]], changes: list[Change], org: str, deps: RegistrationDeps) -> None:
    """Store files and changes together, as long as the broker takes them at once, and bring the registries to the latter."""
    if not appends:
        return
    last = 0
    for batch in aggregate.batches(appends):
        last = await aggregate.append_together(deps.bus.client, batch)
    times = [rfc3339(sealed.envelope.time) for sealed, _ in appends[len(appends) - len(changes) :]]

    async def register(number: int) -> None:
        message, seq = changes[number], last - len(changes) + 1 + number
        entry = entry_of(message, org, times[number]) if isinstance(message, WorkflowChanged | AdapterChanged) else None
        if declaration_of(message).noun == "adapter":
            await deps.adapters.put(message.key, seq, cast("AdapterEntry | None", entry))
        else:
            await deps.workflows.put(message.key, seq, cast("WorkflowEntry | None", entry))

    await tasks.each(AT_ONCE, range(len(changes)), register)
    if declaration_of(appends[-1][0].message).noun not in NOUNS:
        # The rows of a workspace are made from others: they do not come to this one.
        last = await aggregate.newest(deps.bus.client, *NOUNS)
    if not await deps.catalog.caught_up(last, timeout=max(ROWS_WITHIN, len(appends) * ROW_WITHIN)):
        # They are recorded: the command that is sent again finds them.
        raise Unavailable("the change is recorded, and the rows of the workspace are behind")


def _sealed(command: Committing, change: FileChange, deps: RegistrationDeps) -> Sealed[FileChanged] | Sealed[FileRemoved]:
    """Return the message of a change; its id derives from the command's and the path."""
    key, path = hashed_key(command.org, change.path), change.path
    by: dict[str, Any] = {"key": key, "path": path, "actor": command.actor, "commit": command.id, "note": command.note}
    message: FileChanged | FileRemoved = FileRemoved(**by)
    if change.sha256 is not None:
        message = FileChanged(**by, sha256=change.sha256, size=change.size, moved_from=change.moved_from)
    return deps.bus.seal(message, org=command.org, id=derived_id(command.id, declaration_of(message).type, path))


def _check_stored(org: str, wanted: int, before: int, deps: RegistrationDeps) -> None:
    """Raise `Invalid` where files would have more bytes than the organization's quota, and than before."""
    most = deps.quotas.of(org).stored_bytes
    if most is not None and wanted > max(most, before):
        detail = f"with these changes its files have {wanted:,} bytes, more than the {most:,} of the quota stored_bytes"
        raise Invalid(f"the organization {org}: {detail}", errors=(Problem("stored_bytes", detail),))


async def _check_content(change: FileChange, deps: RegistrationDeps) -> None:
    sha256 = change.sha256 or ""
    # From here on it is not collected as garbage, whatever else refers to it.
    blob = await deps.blobs.claim(sha256)
    if blob is None or blob.size != change.size:
        raise NotFound(f"the content {sha256[:12]}… of {change.path} was not uploaded")


def _is_there(before: aggregate.Stored | None) -> bool:
    return before is not None and before.envelope.type != declaration_of(FileRemoved).type


def _expect(change: FileChange, before: aggregate.Stored | None) -> None:
    if change.expected is None:
        return
    message = None if before is None else before.message()
    found = message.sha256 if isinstance(message, FileChanged) else ""
    if found != change.expected:
        raise PreconditionFailed(f"{change.path} is {found[:12] or 'not there'}, not {change.expected[:12] or 'absent'}")
