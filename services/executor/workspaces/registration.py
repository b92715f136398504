"""Workspaces: files come in, their code is read in a child, and what it defines goes into service or is refused with reasons."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import msgspec
import structlog

from services.executor import domain
from services.executor.sandbox.errors import SandboxUnavailable
from services.executor.sandbox.jail import BundleProblem, DeclaredWorkflow, Description, Sandbox, ServedWorkflow
from services.executor.store import ExecutorStore
from services.executor.workspaces.bundles import Bundles, Manifest
from services.executor.workspaces.keys import problem_of
from services.executor.workspaces.slow import Slow
from services.executor.workspaces.views import file_view, workflow_entry
from shared import aggregate, db, errors
from shared.blobs import Blobs
from shared.bus import Bus
from shared.envelope import derived_id
from shared.errors import Invalid, NotFound, PreconditionFailed, Unavailable
from shared.expressions.pool import Expressions
from shared.messages import FileChanged, FileRemoved, Message, WorkflowChanged, WorkflowRemoved
from shared.messages.catalog import FileProblem
from shared.messages.declaration import declaration_of, hashed_key
from shared.projection import Projection
from shared.questions import Command
from shared.questions.executor import FileView, PutFile, RemoveFile, WorkflowEntry
from shared.registry import RegistryWriter

# A workflow that names no time-out: long enough for an integration, short enough that a hung one is noticed.
DEFAULT_TIMEOUT = 300.0
# How often broken files are set back: some work only with the new content of one that does not.
ROUNDS = 3
_log = structlog.get_logger()


class RegistrationDeps(Protocol):
    """What workspaces need."""

    bus: Bus
    store: ExecutorStore
    blobs: Blobs
    bundles: Bundles
    sandbox: Sandbox
    slow: Slow
    expressions: Expressions
    catalog: Projection
    workflows: RegistryWriter[WorkflowEntry]
    database_url: str


class Registered(msgspec.Struct, frozen=True):
    """What serves now, and what was found wrong with newer content."""

    workflows: list[DeclaredWorkflow]
    problems: list[FileProblem]


async def put_file(command: PutFile, deps: RegistrationDeps) -> FileView:
    """Record new content of a file, then read the workspace's code and register its workflows."""
    domain.checked_path(command.path)
    blob = await deps.blobs.stat(command.sha256)
    if blob is None or blob.size != command.size:
        raise NotFound(f"the content {command.sha256[:12]}… was not uploaded")
    async with db.held_lock(deps.database_url, f"workspace {command.org}", service="executor"):
        key = hashed_key(command.org, command.path)
        before = await aggregate.last(deps.bus.client, "file", key)
        if before is None or before.envelope.id != derived_id(command.id, "file.changed"):
            _expect(command.expected, before, command.path)
            await _check_place(command.org, command.path, deps)
            message = FileChanged(key=key, path=command.path, sha256=command.sha256, size=command.size, actor=command.actor)
            sequence, _ = await _record(deps, command, message, before)
            await deps.catalog.caught_up(sequence)
        registered = await register(command, deps, command.path)
    return await _view(command.org, command.path, registered, deps)


async def remove_file(command: RemoveFile, deps: RegistrationDeps) -> FileView:
    """Record that a file is gone and register what is left."""
    async with db.held_lock(deps.database_url, f"workspace {command.org}", service="executor"):
        key = hashed_key(command.org, domain.checked_path(command.path))
        row = await deps.store.file(command.org, command.path)
        before = await aggregate.last(deps.bus.client, "file", key)
        if row is None or before is None or before.envelope.type == "file.removed":
            raise NotFound(f"there is no file {command.path}")
        _expect(command.expected, before, command.path)
        gone = FileView(path=command.path, sha256=row["sha256"], size=row["size"], updated_at="")
        message = FileRemoved(key=key, path=command.path, actor=command.actor)
        sequence, _ = await _record(deps, command, message, before)
        await deps.catalog.caught_up(sequence)
        registered = await register(command, deps, command.path)
    return msgspec.structs.replace(gone, problems=registered.problems)


async def register(command: Command, deps: RegistrationDeps, path: str) -> Registered:
    """Bring the registry to the workspace's newest code that works; `path` is the file that has changed."""
    served = await deps.store.workflows([command.org])
    active = await _active(served, deps)
    code = {name: sha256 for name, sha256 in (await deps.store.tree(command.org)).items() if domain.is_code(name)}
    latest, blocked = domain.without_clashes(code)
    misplaced = [FileProblem(name, 1, domain.clash(name, parent)) for name, parent in sorted(blocked.items())]
    if not domain.is_code(path) or (active is not None and active.files == latest):
        return Registered(active.workflows if active else [], misplaced)
    known = [ServedWorkflow(one.name, one.path, one.function) for one in served]
    before = active.files if active else {}
    slow = deps.slow.of(command.org, latest, path)
    tree = domain.fallback_tree(latest, before, {one.path for one in slow})
    if active is not None and tree == active.files:
        return Registered(active.workflows, misplaced + slow)
    found = await describe(deps, tree, known, command.org)
    problems = misplaced + slow + [FileProblem(problem.path, problem.line, problem.message) for problem in found.problems]
    for _ in range(ROUNDS):
        if not found.problems:
            break
        tried, tree = tree, domain.fallback_tree(tree, before, {one.path for one in found.problems})
        if tree == tried or (active is not None and tree == active.files):
            # Nothing is left out that could be, or what is left serves already.
            return Registered(active.workflows if active else [], problems)
        found = await describe(deps, tree, known, command.org)
        # Those that work only with what was set back.
        told = {problem.path for problem in problems}
        problems += [FileProblem(one.path, one.line, one.message) for one in found.problems if one.path not in told]
    if found.problems:
        # Even with the broken files set back the code does not load as a whole: what serves goes on serving.
        return Registered(active.workflows if active else [], problems)
    await _serve(command, deps, tree, found.workflows, served)
    return Registered(found.workflows, problems)


async def _active(served: list[WorkflowEntry], deps: RegistrationDeps) -> Manifest | None:
    """Return the code that serves now; None where there is none, or none that can be read: then the newest takes its place."""
    if not served:
        return None
    try:
        return await deps.bundles.manifest(served[0].version)
    except NotFound as error:
        _log.error("workspace.served_code_is_missing", version=served[0].version, reason=error.detail)
        return None


async def describe(deps: RegistrationDeps, tree: dict[str, str], known: list[ServedWorkflow], org: str) -> Description:
    """Read a tree's code in a child; `known` are the workflows that the organization is served by now.

    Raises `Unavailable` where there is no sandbox for it, or nothing that checks expressions.
    """
    if not tree:
        return Description([], [])
    folder = await deps.bundles.tree(tree)
    try:
        with deps.bundles.held(folder):
            found = await deps.sandbox.describe(folder, served=known, patience=deps.slow.patience(org))
            deps.slow.record(org, tree, found.problems)
    except SandboxUnavailable as error:
        raise Unavailable(f"code cannot be read now: {error}") from error
    wrong = {}
    for one in found.workflows:
        complaint = await problem_of(one, org, deps.expressions)
        if complaint is not None:
            wrong[one.name] = complaint
    problems = [BundleProblem(one.path, one.line, wrong[one.name]) for one in found.workflows if one.name in wrong]
    return Description([one for one in found.workflows if one.name not in wrong], found.problems + problems)


async def _serve(
    command: Command, deps: RegistrationDeps, tree: dict[str, str], found: list[DeclaredWorkflow], served: list[WorkflowEntry]
) -> None:
    version = await deps.bundles.publish(tree, found)
    last = 0
    for workflow in found:
        key = hashed_key(command.org, workflow.name)
        message = WorkflowChanged(
            key=key,
            name=workflow.name,
            version=version,
            module=workflow.module,
            function=workflow.function,
            path=workflow.path,
            line=workflow.line,
            doc=workflow.doc or "",
            input_schema=workflow.input_schema,
            timeout=workflow.timeout or DEFAULT_TIMEOUT,
            retries=workflow.retries,
            concurrency=workflow.concurrency,
            policy=workflow.policy,
        )
        last = await _announce(deps, command, message, workflow_key=key)
    for name in {entry.name for entry in served} - {workflow.name for workflow in found}:
        key = hashed_key(command.org, name)
        last = await _announce(deps, command, WorkflowRemoved(key=key, name=name), workflow_key=key)
    if last:
        await deps.catalog.caught_up(last)
    # So that it is compiled, here at least, before somebody asks for a run.
    await deps.bundles.get(version)
    _log.info("workspace.registered", org=command.org, version=version, workflows=len(found))


async def _announce(
    deps: RegistrationDeps, command: Command, message: WorkflowChanged | WorkflowRemoved, *, workflow_key: str
) -> int:
    before = await aggregate.last(deps.bus.client, "workflow", workflow_key)
    if before is not None and isinstance(message, WorkflowChanged) and before.message() == message:
        return before.sequence
    sequence, at = await _record(deps, command, message, before, message.name)
    entry = workflow_entry(message, command.org, at) if isinstance(message, WorkflowChanged) else None
    await deps.workflows.put(workflow_key, sequence, entry)
    return sequence


async def _record(
    deps: RegistrationDeps, command: Command, message: Message, before: aggregate.Stored | None, *what: str
) -> tuple[int, datetime]:
    """Append what a command led to; its id derives from the command's and from what it is about."""
    id_ = derived_id(command.id, declaration_of(message).type, *what)
    sealed = deps.bus.seal(message, org=command.org, id=id_)
    return await deps.bus.append(sealed, before.sequence if before else 0), sealed.envelope.time


async def _view(org: str, path: str, registered: Registered, deps: RegistrationDeps) -> FileView:
    row = await deps.store.file(org, path)
    if row is None:
        raise NotFound(f"there is no file {path}")
    names = [workflow.name for workflow in registered.workflows if workflow.path == path]
    return file_view(row, names, registered.problems)


async def _check_place(org: str, path: str, deps: RegistrationDeps) -> None:
    other = await deps.store.in_the_way(org, path)
    if other is not None:
        complaint = domain.clash(path, other)
        raise Invalid(f"{path} cannot be put there: {complaint}", errors=(errors.Problem("path", complaint),))


def _expect(expected: str | None, before: aggregate.Stored | None, path: str) -> None:
    if expected is None:
        return
    message = None if before is None else before.message()
    found = message.sha256 if isinstance(message, FileChanged) else ""
    if found != expected:
        raise PreconditionFailed(f"{path} is {found[:12] or 'not there'}, not {expected[:12] or 'absent'}")
