"""Messages in: a repository's branch has moved, by its sender's webhook, and the workspace follows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol
from weakref import WeakValueDictionary

import structlog

from services.executor.repositories import syncing
from services.executor.repositories.comparing import SyncDeps
from shared.consumer import Follows, Handlers
from shared.envelope import Envelope, open_message
from shared.errors import MillraceError, Unavailable
from shared.messages import Audited, BranchMoved
from shared.questions.repositories import TIME, SyncRepository
from shared.resources import KINDS

# Seconds until it is tried again where the remote, or what gives the credential, is away for a moment.
AGAIN = (2.0, 10.0, 30.0)
_log = structlog.get_logger()


class Following:
    """Who waits here to follow a branch: of an organization one at a time, since what it finds then is the newest for all."""

    def __init__(self) -> None:
        self.turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.waiting: set[str] = set()


class FollowingDeps(SyncDeps, Protocol):
    """Dependencies of following."""

    following: Following


async def follow(envelope: Envelope, deps: FollowingDeps) -> AsyncIterator[Follows]:
    """Pull, or sync, as the repository says. What keeps it from that is recorded: the next event, or a person, tries again."""
    moved, org, following = open_message(envelope, BranchMoved), envelope.org, deps.following
    if org in following.waiting:
        return
    following.waiting.add(org)
    turn = following.turns.setdefault(org, asyncio.Lock())
    try:
        await turn.acquire()
    finally:
        following.waiting.discard(org)
    try:
        yield await _followed(moved, org, deps), "followed"
    finally:
        turn.release()


async def _followed(moved: BranchMoved, org: str, deps: FollowingDeps) -> Audited:
    spec = KINDS["repository"].spec_of(moved.spec)
    actor = f"repository:{moved.name}"
    command = SyncRepository(id=moved.delivery, org=org, actor=actor, repository=spec, do=spec.on_event)
    outcome = "ok"
    detail: dict[str, Any] = {}
    for pause in (*AGAIN, None):
        try:
            async with asyncio.timeout(TIME):
                done = await syncing.sync(command, deps)
            outcome, detail = "ok", {"pulled": len(done.pulled), "pushed": len(done.pushed), "conflicts": len(done.left.conflicts)}
            break
        except TimeoutError:
            outcome, detail = Unavailable.kind, {"reason": "it took too long"}
            break
        except MillraceError as error:
            outcome, detail = error.kind, {"reason": error.detail[:500]}
            if pause is None or not isinstance(error, Unavailable):
                break
            await asyncio.sleep(pause)
    _log.info("repository.followed", org=org, repository=moved.name, outcome=outcome, **detail)
    detail |= {"delivery": moved.delivery}
    return Audited(category="workspace", verb=spec.on_event, actor=actor, target=moved.name, outcome=outcome, detail=detail)


HANDLERS: Handlers = {BranchMoved: follow}
