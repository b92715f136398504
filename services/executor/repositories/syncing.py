"""Brings a workspace and its repository together: looks at both, decides, and records each step so that it goes on after a crash.

Nothing here relies on being alone. Files of the workspace change together with what both sides had last, as one batch that expects
every one of them as it was; the branch changes by a compare-and-set of the remote. The lock spares others useless work. A push is
recorded before it happens and names itself in its commit: where the outcome is not known the next look finds it, or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from services.executor.repositories import decisions, states
from services.executor.repositories.comparing import Comparison, SyncDeps, looking
from services.executor.repositories.decisions import SyncDecision
from services.executor.repositories.remote import (
    LIMITS,
    MOST_FILES,
    Moved,
    OutgoingCommit,
)
from services.executor.repositories.states import KnownSync
from services.executor.workspaces import commits
from shared import aggregate
from shared.envelope import new_id, utc_now
from shared.errors import Conflict, Invalid, NotFound, PreconditionFailed, TooLarge, Unavailable
from shared.messages.catalog import FileProblem
from shared.messages.sync import StartedPush, SyncAdvanced, SyncPushStarted
from shared.questions.files import CommitFiles, FileChange
from shared.questions.repositories import SyncRepository

TRIES = 4
"""Times that it is decided anew because one of the sides has moved meanwhile."""
PATIENCE = 15.0
"""Seconds that one waits for another of the same workspace."""


class SyncOutcome(msgspec.Struct, kw_only=True):
    """What was done: paths, and the commit in the repository; `left` is what is still to be done."""

    pulled: list[str] = []
    pushed: list[str] = []
    commit: str | None = None
    problems: list[FileProblem] = []
    warnings: list[FileProblem] = []
    building: bool = False
    left: SyncDecision = SyncDecision({}, {}, (), {})


async def sync(command: SyncRepository, deps: SyncDeps) -> SyncOutcome:
    """Pull, push or both, as the command says, and only those `paths` that it names, if any.

    Raises `Conflict` where the branch has been rewritten and the command does not accept that, and as `looking`.
    """
    done = SyncOutcome()
    async with _alone(command.org, deps):
        for left in range(TRIES, 0, -1):
            try:
                async with looking(command.org, command.repository, deps, accepts=command.accepts_history) as first:
                    _check_history(first, command)
                    look = await _pull(first, command, deps, done)
                    done.left = look.decision
                    if command.pushes:
                        await _push(look, command, deps, done)
                    break
            except Moved as error:
                # Somebody has changed one of the sides since the look: nothing of this step was recorded.
                if left == 1:
                    raise Conflict(f"the sides are changed faster than they can be brought together: {error}") from error
    return done


async def resolve(command: SyncRepository, deps: SyncDeps) -> SyncOutcome:
    """Settle conflicts: take one side's content of each path, or a given one."""
    done = SyncOutcome()
    async with _held(command, deps) as look:
        for choice in command.choices:
            if choice.path not in look.decision.conflicts:
                raise NotFound(f"{choice.path[:120]} is in no conflict now")
        files: dict[str, str | None] = {}
        sizes: dict[str, int] = {}
        for choice in command.choices:
            if choice.take == "theirs":
                files[choice.path] = look.found.files.get(choice.path)
            elif choice.take == "content":
                files[choice.path] = choice.sha256
                sizes[choice.path] = choice.size
        # From now on the repository's content is what both had: what the workspace has beside it is a change to be pushed.
        agreed = decisions.settled(look.known.files, [one.path for one in command.choices], look.found.files)
        settled = len(command.choices)
        done.left = (await _record(look, command, agreed, files, deps, done, given=sizes, settled=settled)).decision
    return done


async def discard(command: SyncRepository, deps: SyncDeps) -> SyncOutcome:
    """Give changes of the workspace up: those of some paths, or all that would be pushed."""
    done = SyncOutcome()
    async with _held(command, deps) as look:
        wanted = set(command.paths) or set(look.decision.to_push)
        if unknown := sorted(wanted - look.decision.to_push.keys()):
            raise NotFound(f"{unknown[0][:120]} has no change that would be pushed")
        files = {path: look.found.files.get(path) for path in wanted}
        done.left = (await _record(look, command, look.known.files, files, deps, done, settled=len(files))).decision
    return done


@contextlib.asynccontextmanager
async def _alone(org: str, deps: SyncDeps) -> AsyncIterator[None]:
    """Hold the workspace's lock, over all replicas. Raises `Unavailable` where another has it for long."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(deps.locks.hold(f"git:{org}", wait=PATIENCE))
        except Conflict as error:
            raise Unavailable("this workspace is being brought together with its repository; try again", retry_after=5) from error
        yield


@contextlib.asynccontextmanager
async def _held(command: SyncRepository, deps: SyncDeps) -> AsyncIterator[Comparison]:
    async with _alone(command.org, deps), looking(command.org, command.repository, deps) as look:
        _check_history(look, command)
        yield look


# -- steps ------------------------------------------------------------------------------------------------------------------


async def _pull(look: Comparison, command: SyncRepository, deps: SyncDeps, done: SyncOutcome) -> Comparison:
    """Take what is to be pulled into the workspace; return the look as it is then."""
    decision = look.decision
    wanted = _chosen(decision.to_pull, command) if command.pulls else {}
    some = decisions.fitting_a_commit(wanted)
    if len(some) < len(wanted):
        detail = f"{len(wanted)} files are to be pulled, which is more than one commit takes: sync again for those after this one"
        done.warnings.append(FileProblem(some[-1], 0, detail, "warning"))
        wanted = {path: wanted[path] for path in some}
    left = decision.to_pull.keys() - wanted.keys()
    agreed = decisions.agreed(look.known.files, look.found.files, decision)
    agreed = decisions.settled(agreed, left, look.known.files)
    is_new = agreed != look.known.files or look.found.head != look.known.commit or look.known.is_first
    if wanted or is_new or _possible(look) != list(look.known.pushes):
        look = await _record(look, command, agreed, wanted, deps, done)
    return look


async def _push(look: Comparison, command: SyncRepository, deps: SyncDeps, done: SyncOutcome) -> None:
    """Push what is to be pushed as one commit, which is recorded before and after."""
    changes = _chosen(look.decision.to_push, command)
    if not changes:
        return
    id_ = new_id()
    agreed = decisions.settled(look.known.files, changes, look.local)
    _check_size(look, agreed)
    list_ = await states.stored(deps.agreed, command.org, agreed)
    pushes = (*look.known.pushes, StartedPush(id_, look.found.head, list_))[-states.MOST_PUSHES :]
    started = SyncPushStarted(
        **_state(command, look.known.stored or await states.stored(deps.agreed, command.org, look.known.files)),
        commit=look.found.head,
        pushes=list(pushes),
    )
    sequence = await _append(started, look.known.sequence, command, deps)
    moved = decisions.moved_modes(look.known.files, changes, look.found.executable)
    outgoing = OutgoingCommit(
        id=id_,
        author=_author(command),
        at=int(utc_now().timestamp()),
        message=command.message or _said(changes),
        changes=changes,
        executable=frozenset(moved),
    )
    with tempfile.TemporaryDirectory(prefix="outgoing-", dir=look.found.folder.parent) as folder:
        contents = await _contents({one for one in changes.values() if one is not None}, Path(folder), deps)
        commit = await deps.remotes.push(look.access, look.found, outgoing, contents)
    done.pushed += sorted(changes)
    done.commit = commit
    advanced = SyncAdvanced(**_state(command, list_), commit=commit, pushes=[], pushed=len(changes))
    await _append(advanced, sequence, command, deps)
    await _forget(look.known, {list_}, deps)


async def _record(
    look: Comparison,
    command: SyncRepository,
    agreed: Mapping[str, str],
    files: Mapping[str, str | None],
    deps: SyncDeps,
    done: SyncOutcome,
    *,
    given: Mapping[str, int] | None = None,
    settled: int = 0,
) -> Comparison:
    """Change files of the workspace, and with them what both sides had last; return the look as it is then."""
    list_ = await states.stored(deps.agreed, command.org, agreed)
    advanced = SyncAdvanced(
        **_state(command, list_),
        commit=look.found.head,
        pushes=_possible(look),
        pulled=0 if settled else len(files),
        settled=settled,
    )
    local, sizes = dict(look.local), dict(look.sizes)
    if files:
        changes = [await _change(path, sha256, look, given or {}, deps) for path, sha256 in sorted(files.items())]
        sealed = deps.bus.seal(advanced, org=command.org, id=new_id())
        commit = CommitFiles(id=new_id(), org=command.org, actor=command.actor, changes=changes)
        with _changing():
            committed = await commits.commit_with(commit, [(sealed, look.known.sequence)], deps)
        done.problems = committed.problems
        done.building = committed.building
        done.pulled += sorted(files)
        for change in changes:
            local.pop(change.path, None)
            if change.sha256 is not None:
                local[change.path], sizes[change.path] = change.sha256, change.size
        last = await aggregate.last(deps.bus.client, "sync", states.key_of(command.org))
        sequence = 0 if last is None or last.envelope.id != sealed.envelope.id else last.sequence
        if not sequence:
            raise Moved("the workspace is brought together with its repository elsewhere as well")
    else:
        sequence = await _append(advanced, look.known.sequence, command, deps)
    known = KnownSync(
        sequence=sequence,
        is_first=False,
        files=dict(agreed),
        commit=look.found.head,
        pushes=tuple(advanced.pushes),
        stored=list_,
    )
    await _forget(look.known, {list_, *(one.agreed for one in known.pushes)}, deps)
    decision = await asyncio.to_thread(decisions.decide, agreed, local, look.found.files, look.found.refused, look.found.ignored)
    return msgspec.structs.replace(look, known=known, local=local, sizes=sizes, decision=decision)


async def _change(path: str, sha256: str | None, look: Comparison, given: Mapping[str, int], deps: SyncDeps) -> FileChange:
    """Return the change of a file, its content stored; the file must still be as it was looked at."""
    expected = look.local.get(path, "")
    if sha256 is None:
        return FileChange(path=path, expected=expected)
    size = given.get(path)
    if size is None:
        size = look.found.sizes[path]
        blob = await deps.blobs.stat(sha256)
        if blob is None:
            # Held against its name: it is a child that has computed the hash.
            blob = await deps.blobs.put(look.found.content(sha256))
        if (blob.sha256, blob.size) != (sha256, size):
            raise Invalid(f"the repository cannot be read: {path} has another content than it was said to have")
    return FileChange(path=path, sha256=sha256, size=size, expected=expected)


async def _append(message: Any, expected: int, command: SyncRepository, deps: SyncDeps) -> int:
    sealed = deps.bus.seal(message, org=command.org, id=new_id())
    with _changing():
        return await aggregate.append_together(deps.bus.client, [(sealed, expected)])


async def _forget(known: KnownSync, kept: Collection[str], deps: SyncDeps) -> None:
    """Remove lists that are of no use any more. One that is left behind is found by nobody, and is small."""
    for one in {known.stored, *(push.agreed for push in known.pushes)} - {None, *kept}:
        with contextlib.suppress(Unavailable):
            await deps.agreed.remove(str(one))


async def _contents(wanted: Iterable[str], folder: Path, deps: SyncDeps) -> dict[str, Path]:
    """Write contents of the workspace to files."""
    found: dict[str, Path] = {}
    for sha256 in sorted(wanted):
        found[sha256] = folder / sha256
        with (folder / sha256).open("wb") as file:
            async for chunk in deps.blobs.get(sha256):
                await asyncio.to_thread(file.write, chunk)
    return found


def _check_history(look: Comparison, command: SyncRepository) -> None:
    if look.is_rewritten and not command.accepts_history:
        what = "is gone" if look.found.head is None else "was rewritten: it does not follow the commit that was synced last"
        raise Conflict(
            f"the branch {command.repository.branch} {what}"
            f" ({(look.known.commit or '')[:12]}); look at the difference, and accept the new history if it is meant"
        )


def _possible(look: Comparison) -> list[StartedPush]:
    """Return the pushes that may still happen: not one that was to follow another commit than the newest."""
    return [one for one in look.known.pushes if one.head == look.found.head]


@contextlib.contextmanager
def _changing() -> Iterator[None]:
    """Have it decided anew where something has changed since the look."""
    try:
        yield
    except (Conflict, PreconditionFailed) as error:
        raise Moved(error.detail) from error


def _check_size(look: Comparison, agreed: Mapping[str, str]) -> None:
    """Raise `TooLarge` where the repository would become larger than what is looked at."""
    size = sum((look.sizes if look.local.get(path) == sha256 else look.found.sizes).get(path, 0) for path, sha256 in agreed.items())
    if len(agreed) > MOST_FILES or size > LIMITS.bytes // 2:
        most = f"{MOST_FILES} files and {LIMITS.bytes // 2 >> 20} MB are the most"
        raise TooLarge(f"the repository would have {len(agreed)} files and {size >> 20} MB, and {most} of one; see .gitignore")


def _chosen(changes: Mapping[str, str | None], command: SyncRepository) -> dict[str, str | None]:
    return {path: sha256 for path, sha256 in changes.items() if not command.paths or path in command.paths}


def _state(command: SyncRepository, agreed: str) -> dict[str, Any]:
    return {
        "key": states.key_of(command.org),
        "remote": states.remote_of(command.repository),
        "agreed": agreed,
        "actor": command.actor,
    }


def _author(command: SyncRepository) -> str:
    """Return the author of a commit: who has asked for it, in the form that git takes."""
    name, address = (
        "".join(one for one in text if one.isprintable() and one not in "<>").strip()
        for text in (command.actor, command.repository.author_email)
    )
    return f"{name or 'millrace'} <{address}>"


def _said(changes: Mapping[str, str | None]) -> str:
    first, *others = sorted(changes)
    more = f" and {len(others)} more" if others else ""
    return f"{'Remove' if changes[first] is None and not others else 'Change'} {first}{more}"
