"""Registers a workspace's code: a child reads it; its workflows and adapters go into service or are refused with reasons."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Protocol, TypeVar

import msgspec
import structlog

from services.executor import domain
from services.executor.environments.builds import Builds, Locked
from services.executor.environments.environments import Failed
from services.executor.sandbox.errors import SandboxUnavailable
from services.executor.sandbox.interface import (
    BundleProblem,
    DeclaredAdapter,
    DeclaredWorkflow,
    Description,
    Sandbox,
    ServedDefinition,
)
from services.executor.store import ExecutorStore
from services.executor.workspaces.bundles import Bundles, Manifest
from services.executor.workspaces.code import Words, is_same_code
from services.executor.workspaces.concurrency_rules import problem_of
from services.executor.workspaces.packages import WORKSPACE, Chosen, chosen, of
from services.executor.workspaces.retention import RetentionDeps
from services.executor.workspaces.slow import Slow
from services.executor.workspaces.views import adapter_entry, workflow_entry
from shared import tasks
from shared.blobs import Blobs
from shared.bus import Bus
from shared.errors import NotFound, Unavailable
from shared.expressions.pool import Expressions
from shared.messages import AdapterChanged, AdapterRemoved, WorkflowChanged, WorkflowRemoved
from shared.messages.catalog import FileProblem
from shared.messages.declaration import hashed_key
from shared.projection import Projection
from shared.questions.adapters import AdapterEntry
from shared.questions.workflows import WorkflowEntry
from shared.quotas import Quotas
from shared.registry import RegistryWriter

# A workflow that names no time-out: long enough for an integration, short enough that a hung one is noticed.
DEFAULT_TIMEOUT = 300.0
# Files that are looked up at a time.
AT_ONCE = 16
# Rounds of setting broken files back: some work only with the new content of one that does not.
ROUNDS = 3
D = TypeVar("D", DeclaredWorkflow, DeclaredAdapter)
Change = WorkflowChanged | WorkflowRemoved | AdapterChanged | AdapterRemoved
_log = structlog.get_logger()


class RegistrationDeps(RetentionDeps, Protocol):
    """Dependencies of workspaces."""

    bus: Bus
    store: ExecutorStore
    blobs: Blobs
    bundles: Bundles
    builds: Builds
    sandbox: Sandbox
    slow: Slow
    expressions: Expressions
    catalog: Projection
    workflows: RegistryWriter[WorkflowEntry]
    adapters: RegistryWriter[AdapterEntry]
    database_url: str
    quotas: Quotas


class Registration(msgspec.Struct, frozen=True):
    """The part of a workspace that is to serve, and the problems of newer content; `changes` lead from the served one to that."""

    workflows: list[DeclaredWorkflow]
    problems: list[FileProblem]
    changes: list[Change] = []
    is_building: bool = False
    """Whether an environment is being built, without which the newest code cannot serve."""


async def registration(
    org: str,
    files: dict[str, str],
    sizes: Mapping[str, int],
    paths: Collection[str],
    deps: RegistrationDeps,
    *,
    is_anew: bool = False,
    refreshes: bool = False,
) -> Registration:
    """Return how a workspace that holds `files` is to be registered, by its newest code that works; `paths` are those that changed.

    A file that is too large for the bundle is a problem, and stays there as it is in service; a warning where it never was there.
    `sizes` are in bytes, by path. With `is_anew` nobody has deployed the files just now, and none that failed a moment ago is tried
    again; with `refreshes` environments are resolved anew.
    Raises `Unavailable` where there is no sandbox for it, or nothing that checks expressions.
    """
    served = await deps.store.workflows([org])
    adapted = await deps.store.adapters(org)
    active = await active_code(org, deps)
    latest, blocked = domain.without_clashes({path: sha256 for path, sha256 in files.items() if domain.is_bundled(path)})
    misplaced = [FileProblem(name, 1, domain.clash(name, parent)) for name, parent in sorted(blocked.items())]
    latest, beyond = await _within_bounds(latest, sizes, active.files if active else {}, deps)
    misplaced += [
        FileProblem(path, 1, reason, "error" if active is not None and path in active.files else "warning")
        for path, reason in sorted(beyond.items())
    ]
    serving = {entry.name for entry in served}
    going_on = [one for one in active.workflows if one.name in serving] if active else []
    # What is resolved anew may differ though no file does.
    if active is not None and active.files == latest:
        deps.builds.keep(org, {one.requirements for one in active.environments.values()})
    names = {entry.name for entry in adapted}
    is_whole = active is not None and len(going_on) == len(active.workflows) and all(one.name in names for one in active.adapters)
    is_served = is_whole and not refreshes
    is_empty = active is None and not any(map(domain.is_code, latest))
    if is_empty or not any(map(domain.is_bundled, paths)) or (active is not None and active.files == latest and is_served):
        return Registration(going_on, misplaced + (active.warnings if active is not None else []))
    known = [ServedDefinition(one.name, one.path, one.function) for one in served]
    known += [ServedDefinition(one.name, one.path, one.function, is_adapter=True) for one in adapted]
    before = active.files if active else {}
    changed = () if is_anew else paths
    slow = deps.slow.of(org, latest, changed)
    tree = domain.fallback_tree(latest, before, {one.path for one in slow})
    if active is not None and tree == active.files and is_served:
        return Registration(going_on, misplaced + slow + active.warnings)
    environments = active.environments if active and not refreshes else {}
    packages = await _packages(org, tree, environments, changed, deps)
    deps.builds.keep(org, packages.keys)
    problems = misplaced + slow + packages.problems
    if packages.broken:
        tree = domain.fallback_tree(tree, before, packages.broken)
        packages = await _packages(org, tree, environments, (), deps)
    if packages.is_building or packages.broken:
        return Registration(going_on, problems, is_building=packages.is_building)
    if active is not None and tree == active.files and is_served:
        return Registration(going_on, problems + active.warnings)
    found = await describe(deps, tree, known, org, packages)
    problems += [FileProblem(problem.path, problem.line, problem.message) for problem in found.problems]
    warnings = [FileProblem(one.path, one.line, one.message, one.severity) for one in found.warnings]
    for _ in range(ROUNDS):
        if not found.problems:
            break
        tried, tree = tree, domain.fallback_tree(tree, before, {one.path for one in found.problems})
        if tree == tried or (active is not None and tree == active.files and is_served):
            # Nothing could be left out, or the rest serves already.
            return Registration(going_on, problems + warnings)
        packages = await _packages(org, tree, environments, (), deps)
        if packages.problems:
            return Registration(going_on, problems, is_building=packages.is_building)
        found = await describe(deps, tree, known, org, packages)
        # Those that work only with the files that were set back.
        reported = {problem.path for problem in problems}
        problems += [FileProblem(one.path, one.line, one.message) for one in found.problems if one.path not in reported]
    if found.problems:
        # Even with the broken files set back the code does not load as a whole: the serving versions go on serving.
        return Registration(going_on, problems + warnings)
    changes = await _changes(org, tree, packages, found, warnings, [*served, *adapted], deps)
    return Registration(found.workflows, problems + warnings, changes)


async def _within_bounds(
    latest: dict[str, str], sizes: Mapping[str, int], active: dict[str, str], deps: RegistrationDeps
) -> tuple[dict[str, str], dict[str, str]]:
    """Return a tree within the bounds of a bundle, and of each file that is beyond them the reason.

    Such a file is as it is in service as long as that is within the bounds beside all others.
    """
    beyond = domain.beyond_bounds({path: sizes[path] for path in latest})
    if not beyond:
        return latest, {}
    tree = domain.fallback_tree(latest, active, beyond)
    older = [path for path in beyond if path in tree]
    blobs = await tasks.each(AT_ONCE, older, lambda path: deps.blobs.stat(tree[path]))
    known = {path: blob.size for path, blob in zip(older, blobs, strict=True) if blob is not None}
    tree = domain.fallback_tree(tree, {}, older - known.keys())
    return domain.fallback_tree(tree, {}, domain.beyond_bounds({path: {**sizes, **known}[path] for path in tree})), beyond


async def active_code(org: str, deps: RegistrationDeps) -> Manifest | None:
    """Return the code that was registered last; None where there is none, or none that can be read: the newest takes its place.

    Workflows that it did not change serve from older versions.
    """
    version = await deps.store.newest_version(org)
    if version is None:
        return None
    try:
        return await deps.bundles.manifest(version)
    except NotFound as error:
        _log.error("workspace.served_code_is_missing", version=version, reason=error.detail)
        return None


async def _packages(
    org: str, tree: dict[str, str], active: dict[str, Locked], changed: Collection[str], deps: RegistrationDeps
) -> Chosen:
    """Return the environments of a tree."""
    folder = await deps.bundles.tree(tree)
    with deps.bundles.held(folder):
        return await chosen(org, tree, folder, active, changed, deps)


async def describe(
    deps: RegistrationDeps, tree: dict[str, str], known: list[ServedDefinition], org: str, packages: Chosen
) -> Description:
    """Read a tree's code in children, one for each environment; `known` is what the organization is served by now.

    Raises `Unavailable` where there is no sandbox for it, or nothing that checks expressions.
    """
    if not any(map(domain.is_code, tree)):
        return Description([], [])
    folder = await deps.bundles.tree(tree)
    own = sorted(packages.environments.keys() - {WORKSPACE})
    found = Description([], [])
    try:
        with deps.bundles.held(folder):
            for place in (WORKSPACE, *own):
                served = [one for one in known if (one.path == place if place else one.path not in own)]
                site_packages = await deps.builds.folder(packages.environments.get(place))
                with deps.builds.held(site_packages):
                    part = await deps.sandbox.describe(
                        folder,
                        site_packages=site_packages,
                        served=served,
                        patience=deps.slow.patience(org),
                        only=[place] if place else None,
                        without=own if not place else [],
                    )
                found = _together(found, part)
                deps.slow.record(org, tree, part.problems)
    except SandboxUnavailable as error:
        raise Unavailable(f"code cannot be read now: {error}") from error
    except Failed as error:
        # It was there before, and cannot be had again.
        return Description([], [BundleProblem(one.path, one.line, one.message[:2100]) for one in error.problems])
    wrong = {}
    for one in found.workflows:
        complaint = await problem_of(one, org, deps.expressions)
        if complaint is not None:
            wrong[one.name] = complaint
    problems = [BundleProblem(one.path, one.line, wrong[one.name]) for one in found.workflows if one.name in wrong]
    return msgspec.structs.replace(
        found, workflows=[one for one in found.workflows if one.name not in wrong], problems=found.problems + problems
    )


def _together(first: Description, second: Description) -> Description:
    """Return the descriptions of two parts of one tree; of two with one name the first stays, as within a part."""
    workflows, twice = _united("a workflow", first.workflows, second.workflows)
    adapters, again = _united("an adapter", first.adapters, second.adapters)
    return Description(
        workflows,
        list(dict.fromkeys([*first.problems, *second.problems, *twice, *again])),
        list(dict.fromkeys([*first.warnings, *second.warnings])),
        adapters,
    )


def _united(what: str, first: list[D], second: list[D]) -> tuple[list[D], list[BundleProblem]]:
    """Return those of two parts in order, and a problem for each of the second whose name is in the first."""
    names: dict[str, D] = {one.name: one for one in first}
    problems = [
        BundleProblem(one.path, one.line, f"{what} named {one.name} is already in {before.path} line {before.line}")
        for one in second
        if (before := names.get(one.name)) is not None
    ]
    united = first + [one for one in second if one.name not in names]
    united.sort(key=lambda one: (one.path, one.line))
    return united, problems


async def _changes(
    org: str,
    tree: dict[str, str],
    packages: Chosen,
    found: Description,
    warnings: list[FileProblem],
    served: list[WorkflowEntry | AdapterEntry],
    deps: RegistrationDeps,
) -> list[Change]:
    """Return what changes when these replace the serving ones: those with other code or another declaration."""
    version = await deps.bundles.publish(tree, found.workflows, warnings, packages.environments, found.adapters)
    # So that it is compiled, here at least, before a run is requested.
    folder = (await deps.bundles.get(version)).folder
    entries = {(isinstance(entry, AdapterEntry), entry.name): entry for entry in served}
    changes: list[Change] = []
    declared: list[WorkflowChanged | AdapterChanged] = [
        *(_message(org, one, version) for one in found.workflows),
        *(_adapter(org, one, version) for one in found.adapters),
    ]
    with deps.bundles.held(folder):
        words = Words(folder)
        for message in declared:
            entry = entries.pop((isinstance(message, AdapterChanged), message.name), None)
            if entry is None or not await _is_same(message, entry, tree, packages, words, deps):
                changes.append(message)
    changes += [
        (AdapterRemoved if is_adapter else WorkflowRemoved)(key=hashed_key(org, name), name=name) for is_adapter, name in entries
    ]
    _log.info("workspace.registered", org=org, version=version, workflows=len(found.workflows), changes=len(changes))
    return changes


async def _is_same(
    message: WorkflowChanged | AdapterChanged,
    entry: WorkflowEntry | AdapterEntry,
    tree: dict[str, str],
    packages: Chosen,
    words: Words,
    deps: RegistrationDeps,
) -> bool:
    """Return whether one may go on serving from its older version, because its declaration and its code are the same."""
    as_before = msgspec.structs.replace(message, version=entry.version)
    if entry_of(as_before, entry.org, entry.updated_at) != entry:
        return False
    try:
        old = await deps.bundles.manifest(entry.version)
    except NotFound:
        return False
    before, now = of(old.environments, message.path), packages.of(message.path)
    if (before and before.identity) != (now and now.identity):
        return False
    return await asyncio.to_thread(is_same_code, message.path, old.files, tree, words)


def entry_of(message: WorkflowChanged | AdapterChanged, org: str, at: str) -> WorkflowEntry | AdapterEntry:
    """Return the registry entry that a message makes; `at` is its time, RFC 3339."""
    return adapter_entry(message, org, at) if isinstance(message, AdapterChanged) else workflow_entry(message, org, at)


def _adapter(org: str, adapter: DeclaredAdapter, version: str) -> AdapterChanged:
    return AdapterChanged(
        key=hashed_key(org, adapter.name),
        name=adapter.name,
        version=version,
        module=adapter.module,
        function=adapter.function,
        path=adapter.path,
        line=adapter.line,
        doc=adapter.doc or "",
        declaration=adapter.declaration,
    )


def _message(org: str, workflow: DeclaredWorkflow, version: str) -> WorkflowChanged:
    return WorkflowChanged(
        key=hashed_key(org, workflow.name),
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
