"""Questions and commands in: a workspace beside its repository, and what brings them together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

from services.executor.repositories import decisions, syncing
from services.executor.repositories.comparing import Comparison, SyncDeps, looking
from services.executor.repositories.syncing import SyncOutcome
from shared.asking import Questions
from shared.errors import NotFound, Unavailable
from shared.questions.declaration import fitting
from shared.questions.repositories import (
    MOST_TOLD,
    TIME,
    BranchTip,
    ConflictSide,
    Difference,
    LookAtRepository,
    RefusedPath,
    SyncConflict,
    Synced,
    SyncRepository,
    SyncStatus,
)

# Bytes of one content that is shown, and of all differences or contents of one answer.
MOST_SHOWN, MOST_TEXT = 256 * 1024, 512 * 1024
MOST_PROBLEMS = 128 * 1024
T = TypeVar("T")


async def look_at_repository(question: LookAtRepository, deps: SyncDeps) -> SyncStatus:
    """Return the state of a workspace beside its repository."""
    async with _in_time(), looking(question.org, question.repository, deps) as look:
        decision, known, room = look.decision, look.known, _Room(MOST_TEXT)
        wanted = set(question.paths)

        def asked(paths: Iterable[str]) -> list[str]:
            return [path for path in sorted(paths) if not wanted or path in wanted]

        pulls, pushes, conflicts = asked(decision.to_pull), asked(decision.to_push), asked(decision.conflicts)
        refused = [RefusedPath(path, decision.refused[path]) for path in asked(decision.refused)]
        lengths = [len(one) for one in (pulls, pushes, conflicts, refused)]
        return SyncStatus(
            branch=question.repository.branch,
            tip=_tip(look),
            synced=known.commit,
            rewritten=look.is_rewritten,
            to_pull=[await _difference(path, look, deps, room, question.diffs, pulls=True) for path in pulls[:MOST_TOLD]],
            to_push=[await _difference(path, look, deps, room, question.diffs, pulls=False) for path in pushes[:MOST_TOLD]],
            conflicts=[await _conflict(path, look, deps, room, question.contents) for path in conflicts[:MOST_TOLD]],
            refused=refused[:MOST_TOLD],
            more=sum(max(0, length - MOST_TOLD) for length in lengths),
        )


async def sync_repository(command: SyncRepository, deps: SyncDeps) -> Synced:
    """Bring a workspace and its repository together."""
    work: Callable[[SyncRepository, SyncDeps], Awaitable[SyncOutcome]] = syncing.sync
    work = {"resolve": syncing.resolve, "discard": syncing.discard}.get(command.do, work)
    async with _in_time():
        done = await work(command, deps)
    conflicts = list(done.left.conflicts)
    pushed = set(done.pushed) - set(conflicts)
    pulled = set(done.pulled) - pushed - set(conflicts)
    refused = [RefusedPath(*one) for one in sorted(done.left.refused.items())]
    return Synced(
        to_pull=sorted(pulled)[:MOST_TOLD],
        to_push=sorted(pushed)[:MOST_TOLD],
        conflicts=conflicts[:MOST_TOLD],
        refused=refused[:MOST_TOLD],
        commit=done.commit,
        problems=fitting([*done.problems, *done.warnings], MOST_PROBLEMS),
        building=done.building,
    )


@contextlib.asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    """End what takes longer than its asker waits. Raises `Unavailable`."""
    try:
        async with asyncio.timeout(TIME - 2):
            yield
    except TimeoutError as late:
        told = "the repository took too long; what was done by then is recorded, and the rest can be tried again"
        raise Unavailable(told) from late


class _Room:
    """The room that is left in one answer."""

    def __init__(self, size: int) -> None:
        self.left = size

    def take(self, text: str) -> str:
        """Return a text, or why it is not shown."""
        self.left -= len(text.encode())
        return text if self.left >= 0 else "(too much for one answer: ask for this path alone)\n"


def _tip(look: Comparison) -> BranchTip | None:
    head, tip = look.found.head, look.found.tip
    if head is None or tip is None:
        return None
    return BranchTip(head, *("".join(one if one.isprintable() else " " for one in text) for text in (tip.author, tip.summary)))


async def _difference(path: str, look: Comparison, deps: SyncDeps, room: _Room, shows: bool, *, pulls: bool) -> Difference:  # noqa: FBT001
    ours, theirs = look.local.get(path), look.found.files.get(path)
    before, after = (ours, theirs) if pulls else (theirs, ours)
    diff = None
    if shows and room.left >= 0:
        contents = [await _read(one, look, deps) for one in (before, after)]
        large = next((one for one in contents if isinstance(one, str)), None)
        diff = room.take(large or await asyncio.to_thread(decisions.difference, path, *contents))  # type: ignore[arg-type]
    return Difference(path, decisions.kind_of(before, after), diff)


async def _conflict(path: str, look: Comparison, deps: SyncDeps, room: _Room, shows: bool) -> SyncConflict:  # noqa: FBT001
    base, local, remote = look.known.files, look.local, look.found.files
    sides = [await _side(side.get(path), look, deps, room, shows) for side in (base, local, remote)]
    return SyncConflict(path, decisions.explained(path, base, local, remote), *sides)


async def _side(sha256: str | None, look: Comparison, deps: SyncDeps, room: _Room, shows: bool) -> ConflictSide | None:  # noqa: FBT001
    if sha256 is None:
        return None
    if not shows:
        return ConflictSide(sha256)
    content = await _read(sha256, look, deps)
    if isinstance(content, str) or content is None:
        return ConflictSide(sha256)
    try:
        return ConflictSide(sha256, len(content), room.take(content.decode()))
    except UnicodeDecodeError:
        return ConflictSide(sha256, len(content))


async def _read(sha256: str | None, look: Comparison, deps: SyncDeps) -> bytes | str | None:
    """Return a content, of the workspace or of what was fetched; a sentence where it is too large, or not kept any more."""
    if sha256 is None:
        return None
    try:
        return await _first(look.found.content(sha256) if look.found.has(sha256) else deps.blobs.get(sha256))
    except NotFound:
        return "(this content is not kept any more)\n"


async def _first(parts: AsyncIterator[bytes]) -> bytes | str:
    found = bytearray()
    async for part in parts:
        found += part
        if len(found) > MOST_SHOWN:
            return "(too large to be shown)\n"
    return bytes(found)


QUESTIONS: Questions = {LookAtRepository: look_at_repository, SyncRepository: sync_repository}
