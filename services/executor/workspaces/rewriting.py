"""Commits that make no new content: files get other paths, or the content that they had before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from services.executor import domain
from services.executor.workspaces.commits import NOUNS, commit_changes
from services.executor.workspaces.registration import RegistrationDeps
from shared import aggregate
from shared.errors import Conflict, Invalid, NotFound, PreconditionFailed, Problem, TooLarge, Unavailable
from shared.questions.files import MOST_CHANGES, Committed, FileChange, MoveFiles, RestoreFiles
from shared.values import moment_at

ABSENT = ""
C = TypeVar("C", MoveFiles, RestoreFiles)


class RewritingDeps(RegistrationDeps, Protocol):
    """Dependencies of moving and restoring."""


async def move_files(command: MoveFiles, deps: RewritingDeps) -> Committed:
    """Give files other paths."""
    return await _committed(command, deps, _moves)


async def restore_files(command: RestoreFiles, deps: RewritingDeps) -> Committed:
    """Bring back what files were."""
    return await _committed(command, deps, _restored)


async def _committed(
    command: C, deps: RewritingDeps, changes_of: Callable[[C, RewritingDeps], Awaitable[list[FileChange]]]
) -> Committed:
    """Commit what a command comes to now; what was committed by an earlier sending of it is not looked for anew."""
    if not await deps.catalog.caught_up(await aggregate.newest(deps.bus.client, *NOUNS)):
        raise Unavailable("the rows of the workspace are behind")
    done = await _done(command, deps)
    changes = await changes_of(command, deps) if done is None else done
    if not changes:
        return Committed(files=[], removed=[], problems=[])
    try:
        return await commit_changes(command, changes, deps)
    except PreconditionFailed as error:
        # What the command itself demands was so when it was looked at.
        raise Conflict(f"{error.detail}: it changed meanwhile") from error


async def _done(command: C, deps: RewritingDeps) -> list[FileChange] | None:
    """Return the changes of a command that was sent before, and recorded; None where it was not."""
    if not await deps.versions.caught_up(await aggregate.newest(deps.bus.client, "file", "history")):
        raise Unavailable("the rows of the history are behind")
    rows = await deps.history.versions(command.org, path=None, commit=command.id, before=None, limit=MOST_CHANGES)
    changes = [
        FileChange(path=row["path"], sha256=row["sha256"], size=row["size"], moved_from=row["moved_from"]) for row in rows[::-1]
    ]
    return changes or None


async def _moves(command: MoveFiles, deps: RewritingDeps) -> list[FileChange]:
    files, sizes = await deps.store.tree(command.org)
    is_folder = command.path.endswith("/")
    if is_folder != command.to.endswith("/"):
        raise Invalid(
            "a folder is moved to a folder: both paths end with a slash, or neither", errors=(Problem("to", "no such kind"),)
        )
    if command.path == command.to or (is_folder and command.to.startswith(command.path)):
        raise Invalid("it would be moved to where it is", errors=(Problem("to", "is where it is, or below"),))
    domain.checked_path(command.to.rstrip("/"))
    moved = [path for path in sorted(files) if (path.startswith(command.path) if is_folder else path == command.path)]
    if not moved:
        raise NotFound(f"there is no file {command.path[:120]}")
    if 2 * len(moved) > MOST_CHANGES:
        raise TooLarge(f"{len(moved)} files are below {command.path[:120]}; one commit moves at most {MOST_CHANGES // 2}")
    if command.expected is not None and (is_folder or files[command.path] != command.expected):
        raise PreconditionFailed(f"{command.path[:120]} is not {command.expected[:12] or 'absent'}")
    changes: list[FileChange] = []
    for path in moved:
        to = command.to + path[len(command.path) :]
        if to in files and not command.overwrite:
            raise Conflict(f"there is a file {to[:120]} already", errors=(Problem("to", "is there already"),))
        there = files.get(to, ABSENT)
        changes.append(FileChange(path=path, expected=files[path]))
        changes.append(FileChange(path=to, sha256=files[path], size=sizes[path], expected=there, moved_from=path))
    return changes


async def _restored(command: RestoreFiles, deps: RewritingDeps) -> list[FileChange]:
    if (command.at is None) == (command.path is None or command.version is None):
        raise Invalid(
            "either a version of a path is restored, or all files of a time", errors=(Problem("at", "or path and version"),)
        )
    files, _ = await deps.store.tree(command.org)
    if command.path is not None and command.version is not None:
        row = await deps.history.version(command.org, command.path, command.version)
        if row is None or row["sha256"] is None:
            raise NotFound(f"there is no such version of {command.path[:120]} with content, or it is not kept any more")
        if files.get(command.path) == row["sha256"]:
            return []
        there = files.get(command.path, ABSENT)
        return [FileChange(path=command.path, sha256=row["sha256"], size=row["size"], expected=there)]
    at = moment_at(command.at or "", "at")
    since, unknown = await deps.history.unknown_at(command.org, at, command.prefix)
    if since is not None or unknown is not None:
        of = f"of {unknown[:120]} " if unknown is not None else f"since {since:%Y-%m-%dT%H:%M:%SZ} "
        raise Invalid(f"not all versions {of}are kept: that time cannot be restored", errors=(Problem("at", "not kept"),))
    wanted = {row["path"]: row for row in await deps.history.tree_at(command.org, at, command.prefix)}
    changes = [
        FileChange(path=path, sha256=row["sha256"], size=row["size"], expected=files.get(path, ABSENT))
        for path, row in sorted(wanted.items())
        if files.get(path) != row["sha256"]
    ]
    changes += [
        FileChange(path=path, expected=files[path])
        for path in sorted(files)
        if path.startswith(command.prefix) and path not in wanted
    ]
    if len(changes) > MOST_CHANGES:
        raise TooLarge(f"{len(changes)} files differ from that time; one commit changes at most {MOST_CHANGES}: give a prefix")
    return changes
