"""Has environments resolved and built in the background: one at a time for each organization, with its progress for all to see."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from datetime import datetime
from pathlib import Path

import msgspec
import structlog

from services.executor.environments import lock as locks
from services.executor.environments.environments import Environments, Failed, NotHad
from services.executor.environments.lock import Lock, LockError
from services.executor.environments.requirements import Requirements
from services.executor.sandbox.errors import SandboxUnavailable
from shared import tasks
from shared.blobs import Blobs
from shared.envelope import utc_now
from shared.errors import NotFound, Unavailable
from shared.messages.catalog import FileProblem
from shared.pull import StreamError

GRACE = 1.5
"""Seconds that a registration waits for an environment: one whose packages are all here takes a few tenths."""
AT_ONCE = 3
"""Organizations whose environments are resolved and built at a time."""
FORGOTTEN = 120.0
"""Seconds after which what failed is tried again, and what was ready is no longer remembered."""
MOST_JOBS = 200
"""That are remembered of one organization."""
_log = structlog.get_logger()


class Locked(msgspec.Struct, frozen=True):
    """An environment of a version of a workspace: hashes of what `path` asks for and of the stored lock, and its identity."""

    path: str
    requirements: str
    lock: str
    identity: str


class NotBuiltYet(Exception):
    """An environment is not there yet; its job goes on."""

    def __init__(self, job: BuildJob) -> None:
        self.job = job
        super().__init__(job.words)


class BuildJob:
    """One environment that is asked for, from then until a while after its end."""

    def __init__(self, org: str, requirements: Requirements) -> None:
        self.org = org
        self.requirements = requirements
        self.step = "waiting for other environments"
        self.done = self.total = 0
        self.problems: list[FileProblem] = []
        self.locked: Locked | None = None
        self.lock: Lock | None = None
        self.changed_at: datetime = utc_now()
        self.ended = asyncio.Event()
        self.is_followed = False
        """Whether the workspace is to be registered once it is there."""

    @property
    def words(self) -> str:
        """What is going on, in one sentence."""
        how_far = f" ({self.done} of {self.total})" if self.total else ""
        return f"the environment is being built: {self.step}{how_far}; until it is there the workflows go on as they are"

    def tell(self, step: str, done: int = 0, total: int = 0) -> None:
        """Set the progress."""
        self.step, self.done, self.total, self.changed_at = step, done, total, utc_now()


class Builds:
    """The environments that workspaces ask for. `follow` registers a workspace anew, once one that was not there in time is."""

    def __init__(self, environments: Environments, blobs: Blobs, follow: Callable[[str], Awaitable[None]]) -> None:
        self._environments = environments
        self._blobs = blobs
        self._follow = follow
        self._jobs: dict[tuple[str, str], BuildJob] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: dict[BuildJob, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(AT_ONCE)
        self._turns: dict[str, asyncio.Lock] = {}

    async def close(self) -> None:
        """Let go of builds under way."""
        await tasks.end(self._tasks)

    def jobs(self, org: str) -> list[BuildJob]:
        """Return the environments that an organization has asked for lately."""
        return [job for (owner, _), job in self._jobs.items() if owner == org]

    def forget(self, org: str) -> None:
        """Resolve anew what an organization asks for next, whatever it was resolved to just before."""
        for key, job in list(self._jobs.items()):
            if key[0] == org and job.ended.is_set():
                del self._jobs[key]

    def keep(self, org: str, keys: Collection[str]) -> None:
        """Forget what an organization asked for before and asks for no more: all whose requirements have none of these keys.

        What is being built is built to its end; what waits for that is not begun.
        """
        for key, job in list(self._jobs.items()):
            if key[0] == org and key[1] not in keys and (job.ended.is_set() or job in self._waiting):
                del self._jobs[key]
                if job in self._waiting:
                    self._waiting.pop(job).cancel()

    async def lock_of(self, locked: Locked) -> bytes:
        """Return the text of a lock. Raises `NotFound`, `Unavailable`."""
        return await self._blobs.read(locked.lock)

    def size(self, locked: Locked) -> tuple[int, int]:
        """Return the files and bytes of an environment; nothing where it is not on this machine."""
        return self._environments.size(locked.identity)

    async def locked(self, org: str, requirements: Requirements, *, again: bool) -> Locked:
        """Return the environment of requirements, resolved and built; what has failed just before is only tried `again` if asked.

        Raises `Failed`; `NotBuiltYet` where it takes longer than `GRACE`; `Unavailable`.
        """
        self._forget()
        key = (org, requirements.key)
        job = self._jobs.get(key)
        if job is None or (job.problems and again):
            job = self._jobs[key] = BuildJob(org, requirements)
            task = self._waiting[job] = asyncio.create_task(self._carried_out(job, key))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                await job.ended.wait()
        if not job.ended.is_set():
            job.is_followed = True
            raise NotBuiltYet(job)
        if job.locked is None:
            raise Failed(job.problems) if job.problems else Unavailable("packages cannot be installed now")
        return job.locked

    async def settled(self, org: str, seconds: float) -> bool:
        """Wait until no environment of an organization is being built; return whether that came within so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                for job in self.jobs(org):
                    await job.ended.wait()
        except TimeoutError:
            return False
        return True

    def found(self, locked: Locked) -> Path | None:
        """Return where the packages of a version are, if they are on this machine, used just now."""
        folder = self._environments.folder(locked.identity)
        try:
            os.utime(folder)  # when it was used last
        except FileNotFoundError:
            return None
        return folder

    async def folder(self, locked: Locked | None) -> Path | None:
        """Return where the packages of a version are, built from its lock if need be.

        Raises `Failed` where its lock cannot be used, `NotHad` where its packages cannot be had now; `Unavailable`.
        """
        if locked is None or (found := self.found(locked)) is not None:
            return None if locked is None else found
        try:
            lock = await asyncio.to_thread(locks.read, (await self._blobs.read(locked.lock)).decode())
        except (NotFound, UnicodeDecodeError, LockError) as error:
            raise Failed([FileProblem(locked.path, 1, f"the lock of this version cannot be used: {error}")]) from error
        try:
            return await self._environments.build(lock, Requirements(locked.path))
        except Failed as error:
            raise NotHad(error.problems) from error
        except Unavailable as error:
            raise NotHad([FileProblem(locked.path, 1, error.detail)]) from error
        except SandboxUnavailable as error:
            raise Unavailable(f"packages cannot be installed now: {error}") from error

    @contextlib.contextmanager
    def held(self, folder: Path | None) -> Iterator[None]:
        """Keep an environment on disk for the block."""
        with self._environments.held(folder):
            yield

    async def _carried_out(self, job: BuildJob, key: tuple[str, str]) -> None:
        try:
            async with self._turns.setdefault(job.org, asyncio.Lock()), self._places:
                self._waiting.pop(job, None)
                job.tell("resolving")
                job.lock = await self._environments.resolve(job.org, job.requirements, job.tell)
                await self._environments.build(job.lock, job.requirements, job.tell, job.org)
                blob = await self._blobs.put(_once(job.lock.text.encode()))
                job.locked = Locked(job.requirements.path, job.requirements.key, blob.sha256, job.lock.identity)
        except Failed as error:
            job.problems = error.problems
        except (SandboxUnavailable, Unavailable, StreamError, OSError) as error:
            _log.warning("environment.not_built", org=job.org, reason=str(error))
        except Exception as error:
            _log.exception("environment.not_built", org=job.org, reason=type(error).__name__)
        finally:
            # Whatever came between: others wait for the end.
            self._waiting.pop(job, None)
            if job.locked is None and not job.problems and self._jobs.get(key) is job:
                del self._jobs[key]
            job.changed_at = utc_now()
            job.ended.set()
        _log.info("environment.built" if job.locked else "environment.failed", org=job.org, path=job.requirements.path)
        if job.is_followed:
            try:
                await self._follow(job.org)
            except Exception as error:
                _log.warning("environment.not_registered", org=job.org, reason=str(error))

    def _forget(self) -> None:
        now = utc_now()
        counts = Counter(org for org, _ in self._jobs)
        for key, job in list(self._jobs.items()):
            if job.ended.is_set() and ((now - job.changed_at).total_seconds() > FORGOTTEN or counts[job.org] > MOST_JOBS):
                del self._jobs[key]
        self._turns = {org: lock for org, lock in self._turns.items() if lock.locked()}


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
