"""What is done now and then for workspaces: old artifacts are removed, history is trimmed, and then garbage is collected."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import Protocol

import structlog

from services.executor.domain import ARTIFACTS
from services.executor.workspaces import commits
from services.executor.workspaces.garbage import Garbage, GarbageDeps
from services.executor.workspaces.registration import RegistrationDeps
from services.executor.workspaces.retention import forget, trim
from shared import aggregate
from shared.envelope import new_id, utc_now
from shared.errors import Unavailable
from shared.leader import lead
from shared.questions.files import CommitFiles, FileChange

# Artifacts that are removed by one commit.
ROUND = 500
# Seconds between two rounds, and before the first: nothing is urgent.
PAUSE, FIRST = 3600.0, 300.0
ACTOR = "platform:artifacts"
_log = structlog.get_logger()


class UpkeepDeps(RegistrationDeps, GarbageDeps, Protocol):
    """Dependencies of the upkeep."""


async def remove_old(deps: RegistrationDeps, *, kept: timedelta, now: datetime) -> int:
    """Remove artifacts of runs that ended longer than `kept` ago; returns how many. Raises `Unavailable`."""
    rows = await deps.store.artifacts_of_ended(now - kept, ROUND)
    for org, files in groupby(rows, itemgetter("org")):
        changes = [FileChange(path=one["path"]) for one in files]
        note = f"artifacts of runs that ended {kept.days} days ago"
        await commits.commit_files(CommitFiles(id=new_id(), org=org, actor=ACTOR, changes=changes, note=note), deps)
        _log.info("artifacts.removed", org=org, count=len(changes))
    return len(rows)


async def erase_artifacts(org: str, run: str, deps: UpkeepDeps) -> None:
    """Remove what a run has left, and every version of it: its content goes with the next round. Raises `Unavailable`."""
    below = f"{ARTIFACTS}{run}/"
    if not await deps.history.knows(org, below):
        return
    while rows := await deps.store.files_below(org, below, ROUND):
        changes = [FileChange(path=path) for path in rows]
        await commits.commit_files(CommitFiles(id=new_id(), org=org, actor=ACTOR, changes=changes, note="an erased run's"), deps)
    # Of a version whose row comes later the end would stay.
    if not await deps.versions.caught_up(await aggregate.newest(deps.bus.client, "file", "history")):
        raise Unavailable("the rows of the history are behind")
    await forget(org, below, deps)


async def keep_up(deps: UpkeepDeps, *, artifacts_kept: timedelta) -> None:
    """Do all of it for ever, in one replica at a time; an obstacle is logged, once, and waited out."""
    garbage = Garbage(deps)

    async def once() -> int:
        while await remove_old(deps, kept=artifacts_kept, now=utc_now()) == ROUND:
            pass
        await trim(deps)
        return await garbage.round()

    await lead(
        once,
        url=deps.database_url,
        service="executor",
        lock="executor.workspaces",
        pause=PAUSE,
        first=FIRST,
        interrupted="workspaces.interrupted",
    )
