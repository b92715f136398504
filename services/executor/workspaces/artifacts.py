"""Artifacts of runs are removed some time after the run has ended."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter

import structlog

from services.executor.workspaces import commits
from services.executor.workspaces.registration import RegistrationDeps
from shared.envelope import new_id, utc_now
from shared.leader import lead
from shared.questions.executor import CommitFiles, FileChange

# Files of one round; seconds between two rounds, and before the first.
ROUND = 500
PAUSE, FIRST = 600.0, 120.0
ACTOR = "platform:artifacts"
_log = structlog.get_logger()


async def remove_old(deps: RegistrationDeps, *, kept: timedelta, now: datetime) -> int:
    """Remove artifacts of runs that ended longer than `kept` ago; returns how many. Raises `Unavailable`."""
    rows = await deps.store.artifacts_of_ended(now - kept, ROUND)
    for org, files in groupby(rows, itemgetter("org")):
        changes = [FileChange(path=one["path"]) for one in files]
        note = f"artifacts of runs that ended {kept.days} days ago"
        await commits.commit_files(CommitFiles(id=new_id(), org=org, actor=ACTOR, changes=changes, note=note), deps)
        _log.info("artifacts.removed", org=org, count=len(changes))
    return len(rows)


async def keep_removing(deps: RegistrationDeps, kept: timedelta) -> None:
    """Do so for ever, in one replica at a time."""
    await lead(
        lambda: remove_old(deps, kept=kept, now=utc_now()),
        url=deps.database_url,
        service="executor",
        lock="executor.artifacts",
        pause=PAUSE,
        first=FIRST,
        full=ROUND,
        interrupted="artifacts.interrupted",
    )
