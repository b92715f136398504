"""Commands in: an organization is removed with its runs and its workspace."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Protocol

import msgspec
from sqlalchemy import select

from services.executor.repositories import states
from services.executor.runs.claim import read_now
from services.executor.runs.erasing import RunErasingDeps
from services.executor.runs.run_state import RunState
from services.executor.tables import metadata, run
from services.executor.workspaces import commits
from services.executor.workspaces.bundles import Manifest
from services.executor.workspaces.registration import RegistrationDeps
from shared import aggregate
from shared.asking import Questions
from shared.blobs import Blobs
from shared.db import transaction
from shared.envelope import Sealed, derived_id, new_id, open_envelope, open_message
from shared.errors import Invalid, NotFound
from shared.messages import AdapterChanged, FileChanged, Message, RunCancelRequested, SyncState, WorkflowChanged
from shared.ordered_reader import OrderedReader
from shared.owners.removing import Deadline, Rows, are_level, erase_of_organization
from shared.projection import Projection, Shards
from shared.questions.files import CommitFiles, FileChange
from shared.questions.removing import EraseInExecutorOf, Left, RemoveInExecutor
from shared.runs import ENDING
from shared.tasks import each

# Runs that are asked to stop by one call, and at a time.
CANCELLED, AT_ONCE = 500, 16
# Files of one commit.
COMMITTED = 500
_OF_RUN = "IN (SELECT id FROM run WHERE org = :org)"
BESIDES = {"step": f"id {_OF_RUN}", "line": f"run {_OF_RUN}", "concurrency_slot": f"run {_OF_RUN}"}
COUNTED = ("run", "file", "workflow", "adapter", "state")
_CODE = tuple(f"{noun}.*.changed" for noun in commits.NOUNS)


class ExecutorRemovingDeps(RunErasingDeps, RegistrationDeps, Protocol):
    """Dependencies of removing."""

    rows: Shards
    lines: Projection
    agreed: Blobs


async def remove(command: RemoveInExecutor, deps: ExecutorRemovingDeps) -> Left:
    """Do a part of a step. Raises `Unavailable`."""
    org, deadline = command.organization, Deadline()
    rows = Rows(deps.engine, metadata, BESIDES)
    if command.step == "count":
        return Left(await rows.count(org, COUNTED))
    if command.step == "stop":
        return Left(await _cancel(command, deps) | await _remove_files(command, deps))
    behind = await are_level([deps.catalog, deps.versions, *deps.rows.each, deps.lines])
    return Left(behind or await rows.delete(org, deadline))


async def _cancel(command: RemoveInExecutor, deps: ExecutorRemovingDeps) -> dict[str, int]:
    """Ask runs to stop; return how many have not ended."""
    if behind := await are_level(deps.rows.each):
        return behind
    wanted = select(run.c.id).where(run.c.org == command.organization, run.c.finished_at.is_(None)).limit(CANCELLED)
    async with transaction(deps.engine) as connection:
        going = list((await connection.execute(wanted)).scalars())

    async def cancel(id_: str) -> None:
        async def read() -> tuple[RunState | None, int]:
            found = await read_now(deps.bus, deps.store, id_)
            return found.state, found.last_seq

        async def request(state: RunState | None) -> Sealed[RunCancelRequested] | None:
            if state is None or state.status in ENDING:
                return None
            message = RunCancelRequested(run=id_, requested_by=command.actor)
            return deps.bus.seal(message, org=state.org, correlation=state.correlation_id, id=derived_id(command.id, "cancel", id_))

        await aggregate.advance(deps.bus, read, request)

    await each(AT_ONCE, going, cancel)
    return {"run": len(going)} if going else {}


async def _remove_files(command: RemoveInExecutor, deps: ExecutorRemovingDeps) -> dict[str, int]:
    """Remove a part of the files, and with them what they define, then their contents; return how many there were."""
    org = command.organization
    deps.builds.forget(org)
    if behind := await are_level([deps.catalog]):
        return behind
    files, _ = await deps.store.tree(org)
    if files:
        changes = [FileChange(path=path) for path in sorted(files)[:COMMITTED]]
        await commits.commit_files(CommitFiles(id=new_id(), org=org, actor=command.actor, changes=changes), deps)
        return {"file": len(files)}
    removed = await _forget_repository(org, deps)
    for blob in await _only_of(org, deps):
        if await deps.blobs.stat(blob) is not None:
            await deps.blobs.remove(blob)
            removed += 1
    return {"content": removed} if removed else {}


async def _forget_repository(org: str, deps: ExecutorRemovingDeps) -> int:
    """Remove the lists of what the workspace and its repository had in common; return how many there were."""
    last = await aggregate.last(deps.bus.client, "sync", states.key_of(org))
    message = None if last is None else last.message()
    lists = {message.agreed, *(one.agreed for one in message.pushes)} if isinstance(message, SyncState) else set[str]()
    there = [one for one in lists if await deps.agreed.stat(one) is not None]
    for one in there:
        await deps.agreed.remove(one)
    return len(there)


async def _only_of(org: str, deps: ExecutorRemovingDeps) -> set[str]:
    """Return the contents in the bucket `workspace` that an organization's files had, and no other one's: equal ones are one."""
    files: dict[bool, set[str]] = {True: set(), False: set()}
    versions: dict[bool, set[str]] = {True: set(), False: set()}
    async for whose, message in _code(deps):
        if isinstance(message, FileChanged):
            files[whose == org].add(message.sha256)
        else:
            versions[whose == org].add(message.version)
    locks: dict[bool, set[str]] = {True: set(), False: set()}
    locks[True] = await _locks(versions[True] - versions[False], deps)
    if locks[True]:
        locks[False] = await _locks(versions[False], deps)
    own, others = ({*files[is_own], *versions[is_own], *locks[is_own]} for is_own in (True, False))
    return own - others


async def _locks(versions: set[str], deps: ExecutorRemovingDeps) -> set[str]:
    """Return the contents of the environments of bundles."""
    found: set[str] = set()
    for version in versions:
        try:
            manifest = msgspec.json.decode(await deps.blobs.read(version), type=Manifest)
        except (NotFound, msgspec.MsgspecError):
            continue
        found |= {one.lock for one in manifest.environments.values()}
    return found


async def _code(deps: ExecutorRemovingDeps) -> AsyncIterator[tuple[str, FileChanged | WorkflowChanged | AdapterChanged]]:
    """Yield with its organization every message that names content of code, up to now."""
    last = await aggregate.newest(deps.bus.client, *commits.NOUNS, verbed="changed")
    if not last:
        return
    batches = OrderedReader(deps.bus.client, "CATALOG", filters=_CODE, heartbeats=True).batches()
    async with aclosing(batches):
        async for batch in batches:
            for delivered in batch:
                try:
                    envelope = open_envelope(delivered.data)
                    message: Message = open_message(envelope)
                except Invalid:
                    continue
                if isinstance(message, FileChanged | WorkflowChanged | AdapterChanged):
                    yield envelope.org, message
            # The last one may have been erased meanwhile: then nothing comes.
            if not batch or batch[-1].sequence >= last:
                return


async def erase(command: EraseInExecutorOf, deps: ExecutorRemovingDeps) -> Left:
    """Erase messages and results. Raises `Unavailable`."""
    return await erase_of_organization(deps.bus.client, command, deps.results)


QUESTIONS: Questions = {RemoveInExecutor: remove, EraseInExecutorOf: erase}
