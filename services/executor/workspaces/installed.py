"""The environments of a workspace as others see them."""

from __future__ import annotations

import asyncio

from services.executor.environments import lock as locks
from services.executor.environments.builds import BuildJob, Locked
from services.executor.environments.lock import Lock, LockError
from services.executor.workspaces.packages import WORKSPACE
from services.executor.workspaces.registration import RegistrationDeps, active_code
from shared.envelope import rfc3339
from shared.errors import NotFound
from shared.questions.environments import EnvironmentView, PackageView

NAMED = "workspace"


async def environments(org: str, deps: RegistrationDeps, *, has_locks: bool) -> list[EnvironmentView]:
    """Return the environments that serve, in the order of their names, and those that are being built or failed just before."""
    active = await active_code(org, deps)
    serving = {} if active is None else active.environments
    found = [await _serving(place, locked, deps, has_lock=has_locks) for place, locked in sorted(serving.items())]
    known = {locked.requirements for locked in serving.values()}
    return found + [_of(job) for job in deps.builds.jobs(org) if not job.ended.is_set() or job.requirements.key not in known]


async def _serving(place: str, locked: Locked, deps: RegistrationDeps, *, has_lock: bool) -> EnvironmentView:
    try:
        text = (await deps.builds.lock_of(locked)).decode()
        lock = await asyncio.to_thread(locks.read, text)
    except (NotFound, LockError, UnicodeDecodeError):
        text, lock = "", Lock(())
    files, size = await asyncio.to_thread(deps.builds.size, locked)
    return EnvironmentView(
        name=NAMED if place == WORKSPACE else place,
        path=locked.path,
        status="ready",
        serves=True,
        id=locked.identity,
        packages=_packages(lock),
        files=files,
        bytes=size,
        lock=text if has_lock else None,
    )


def _of(job: BuildJob) -> EnvironmentView:
    path = job.requirements.path
    status = "building" if not job.ended.is_set() else "failed" if job.problems else "ready"
    return EnvironmentView(
        name=path if path.endswith(".py") else NAMED,
        path=path,
        status=status,
        serves=False,
        step=job.step if status == "building" else "",
        done=job.done,
        total=job.total,
        id=None if job.locked is None else job.locked.identity,
        packages=[] if job.lock is None else _packages(job.lock),
        problems=job.problems,
        updated_at=rfc3339(job.changed_at),
    )


def _packages(lock: Lock) -> list[PackageView]:
    return [PackageView(one.name, one.version) for one in lock.packages]
