"""The sandbox put together: one zygote, a pool of its children, and the tier that both are of."""

import asyncio
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from services.executor.sandbox import frames, memory, process, template, verdict
from services.executor.sandbox.attempt import Attempt
from services.executor.sandbox.cgroups import Cgroups
from services.executor.sandbox.ends import AttemptEnd
from services.executor.sandbox.errors import FrameError, SandboxUnavailable
from services.executor.sandbox.fork_server import ForkServer
from services.executor.sandbox.ground import Ground, Identity, prepare
from services.executor.sandbox.hierarchies import Share
from services.executor.sandbox.interface import Cancellation, Capabilities, Description, Job, Outcome, ServedDefinition, Tier
from services.executor.sandbox.pool import ChildPool
from services.executor.sandbox.preloading import Preloading
from services.executor.sandbox.probing import remedy, targets
from services.executor.sandbox.process import Child, ChildLimits, CodePaths
from services.executor.sandbox.residents import Resident, Residents
from services.executor.sandbox.template import Template
from services.executor.sandbox.templates import Templates
from services.executor.sandbox.zygote import Zygote
from services.executor.sandbox.zygote import start as start_zygote

SANDBOX_UID = 65532
"""The user that images call "nonroot": no file and no other process should belong to it."""

_PROBE = 30.0
"""Seconds for the attack list, which takes some milliseconds."""
_DESCRIBE = 30.0
"""Seconds for all imports of a bundle together, and for compiling it."""
_MOST_ENDING = 64
"""Children that may still be dying when another run begins; the outcome of their run is already reported."""

_log = structlog.get_logger()


class Children:
    """A `Sandbox` of one-shot processes, of the best tier that this machine allows.

    `data` is a folder of the executor's own, made if missing; `code` holds it and all bundles, and is its parent unless given.
    From `size` to `most` children are kept warm (four times `size` unless given); more run at once if asked. `uid` None keeps the
    supervisor's user: right where that is an ordinary one. `interpreter` is the one that runs this unless given. `tiers` are
    tried in turn; `unsafe` adds "none" to their end. `cgroups` False makes no control groups even where the kernel would allow it.
    In tier A the `template_after`th of the jobs of an organization and bundle that follow each other makes their template; with
    None there are no templates. `preloads`: whether packages of workflows are imported ahead of their runs, in tier A.
    """

    def __init__(
        self,
        data: Path,
        *,
        uid: int | None,
        size: int = 4,
        most: int | None = None,
        gid: int | None = None,
        interpreter: Path | None = None,
        limits: ChildLimits | None = None,
        code: Path | None = None,
        tiers: Sequence[Tier] = ("A", "B"),
        unsafe: bool = False,
        cgroups: bool = True,
        template_after: int | None = 2,
        preloads: bool = True,
    ) -> None:
        self.tier: Tier = tiers[0]
        """The tier that is in use, once started."""
        self.refused: dict[Tier, str] = {}
        """The better tiers that were tried, and why each is not in use."""
        self.held: tuple[str, ...] = ()
        """Those of "memory", "pids" and "cpu" that a control group limits for each run, once started."""
        self.unheld: dict[str, str] = {}
        """Why none holds the others."""
        last: tuple[Tier, ...] = ("none",) if unsafe and "none" not in tiers else ()
        self._tiers: list[Tier] = [*tiers, *last]
        self._data = data
        self._code = data.parent if code is None else code
        self._size = size
        self._most = 4 * size if most is None else most
        self._who = None if uid is None else Identity(uid, uid if gid is None else gid)
        self._interpreter = interpreter
        self._limits = self._limits_of_child = limits or ChildLimits()
        self._ground: Ground | None = None
        self._zygote: Zygote | None = None
        self._starting = asyncio.Lock()
        self._pool = ChildPool(self._warm, least=size, most=self._most)
        self._residents = Residents(self._most)
        self._template_after = template_after
        self._may_preload = preloads
        self._preloading: Preloading | None = None
        self._templates: Templates | None = None
        memory_mb = self._limits.memory_mb
        self._most_staying_mb = float("inf") if memory_mb is None else memory_mb / 2
        self._serving: set[Child] = set()
        self._spent = 0.0
        self._ending: set[asyncio.Task[None]] = set()
        self._may_group = cgroups
        self._cgroups: Cgroups | None = None
        self._watch: asyncio.Task[None] | None = None
        # Two a core: part of a start is waiting for the kernel, for locks of its network part.
        self._at_once = 2 * len(os.sched_getaffinity(0))
        self._gate = asyncio.Semaphore(self._at_once)

    async def start(self) -> None:
        """Lay out the files, find the tier, and warm the pool; answers when the first child is ready.

        Raises `SandboxUnavailable`, which names what each tier lacks and the fix.
        """
        if self._who is not None and os.geteuid() not in (0, self._who.uid):
            msg = f"only root can start children as user {self._who.uid}: run as root, or without that user"
            raise SandboxUnavailable(msg)
        self._who = self._who if os.geteuid() == 0 else None
        self.refused = {}
        try:
            self._ground = await asyncio.to_thread(prepare, self._data, self._code, self._interpreter, self._who)
            if self._may_group:
                self._cgroups = await asyncio.to_thread(Cgroups, self._share())
                self.held, self.unheld = self._cgroups.held, self._cgroups.refused
            # The limit of each process is one above its group's, which counts the processes that reached it.
            self._limits_of_child = dataclasses.replace(self._limits, processes=self._limits.processes + ("pids" in self.held))
            for tier in self._tiers:
                self.tier = tier
                self._pool = ChildPool(self._warm, least=self._size, most=self._most, places=tier != "none")
                self._residents = Residents(self._most)
                if tier == "A" and self._template_after is not None:
                    self._templates = Templates(self._template, self._fork, after=self._template_after)
                if tier == "A" and self._may_preload:
                    self._preloading = Preloading(self._to_preload, self._end, most=self._most, each=self._at_once)
                try:
                    if tier != "none":
                        await self._probe(self._ground)
                    await self._pool.first()
                    self._watch = asyncio.create_task(self._look_after())
                except SandboxUnavailable as error:
                    self.refused[tier] = str(error)
                    await self._stop()
                else:
                    return
            if list(self.refused) == ["none"]:
                raise SandboxUnavailable(self.refused["none"])
            raise SandboxUnavailable(remedy(self.refused))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Kill and reap every process and remove the scratch folder. Runs must have ended before."""
        ground, self._ground = self._ground, None
        await self._stop()
        if self._cgroups is not None:
            self._cgroups.close()
            self._cgroups = None
        if ground is not None:
            await asyncio.to_thread(ground.leave)

    def resize(self, part: float) -> None:
        """Keep so many times the children warm that were asked for at first."""
        self._pool.resize(round(self._size * part), round(self._most * part))
        self._residents.most = round(self._most * part)

    def cpu_seconds(self) -> float:
        """Return what all runs up to now have used of the cores, those that go on included."""
        return self._spent + sum(child.cpu_seconds for child in self._serving)

    def state(self) -> dict[str, Any]:
        """Return the tier, its shortcomings and the limits that the kernel enforces for each run; as JSON."""
        return {"tier": self.tier, "refused": self.refused, "held": list(self.held), "unheld": self.unheld}

    def pool(self) -> dict[str, int]:
        """Return the number of children by state, and of the runs that wait for one."""
        return {
            **self._pool.counts(),
            **({} if self._templates is None else self._templates.counts()),
            "serving": len(self._serving),
            "staying": self._residents.count,
            "preloaded": 0 if self._preloading is None else self._preloading.count,
            "ending": len(self._ending),
        }

    async def _stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._residents.close()
        if self._preloading is not None:
            await self._preloading.close()
            self._preloading = None
        if self._templates is not None:
            await self._templates.close()
            self._templates = None
        await self._pool.close()
        while self._ending:
            await asyncio.wait(self._ending)
        if self._zygote is not None:
            await self._zygote.end()
            self._zygote = None

    async def _probe(self, ground: Ground) -> None:
        """Have a throwaway child try the attack list. Raises `SandboxUnavailable`, naming the attacks that succeeded."""
        child = await self._warm()
        try:
            async with targets(self._data) as aims:
                await child.put(CodePaths(ground.scratch, None))
                opening = frames.encode({"kind": "probe", "targets": aims})
                ended = await Attempt(child, None).ended(opening, _PROBE, None)
        finally:
            await child.end()
        outcome = verdict.outcome(ended, _PROBE)
        holes = None if outcome.result is None else msgspec.json.decode(outcome.result, type=list[str])
        if holes is None:
            raise SandboxUnavailable(f"the probe {outcome.status}: {outcome.error.message if outcome.error else ''}")
        if holes:
            raise SandboxUnavailable(f"a run could {', '.join(holes)}")

    async def run(self, job: Job, capabilities: Capabilities, *, cancel: Cancellation | None = None) -> Outcome:
        """Run one attempt in a warm child; see `Sandbox.run`."""
        try:
            opening = frames.encode({"kind": "run", **_fields(job)})
        except FrameError as error:
            return verdict.refused(str(error))
        place = CodePaths(job.bundle, job.site_packages)
        if job.isolation == "workflow":
            ended = await self._stay(job, place, opening, capabilities, cancel)
        else:
            ended = await self._preloaded(job, place, opening, capabilities, cancel)
        return verdict.outcome(ended, job.timeout)

    def forget(self, bundle: Path) -> None:
        """Keep no child ready for this bundle; see `Sandbox.forget`."""
        self._pool.forget(bundle)
        self._residents.forget(lambda key: key[2].bundle == bundle)
        if self._preloading is not None:
            self._preloading.forget(bundle)
        if self._templates is not None:
            self._templates.forget(bundle)

    async def compile(self, bundle: Path, paths: list[str]) -> dict[str, bytes | None]:
        """Compile modules in a child that executes nothing; see `Sandbox.compile`."""
        opening = frames.encode({"kind": "compile", "paths": paths})
        return verdict.compiled(await self._converse(CodePaths(bundle, None), opening, _DESCRIBE, None, None), paths)

    async def describe(
        self,
        bundle: Path,
        *,
        site_packages: Path | None = None,
        served: Sequence[ServedDefinition] = (),
        patience: float = 10.0,
        only: Sequence[str] | None = None,
        without: Sequence[str] = (),
    ) -> Description:
        """Import the bundle's workflows in a child; see `Sandbox.describe`."""
        job = {"kind": "describe", "served": served, "patience": patience, "only": only, "without": without}
        opening = frames.encode(job)
        place = CodePaths(bundle, site_packages)
        ended = await self._converse(place, opening, _DESCRIBE, None, None)
        # A child may send so much that judging it takes longer than other runs should wait.
        return await asyncio.to_thread(verdict.description, ended, _DESCRIBE)

    async def _converse(
        self,
        place: CodePaths,
        opening: bytes,
        seconds: float,
        capabilities: Capabilities | None,
        cancel: Cancellation | None,
        job: Job | None = None,
    ) -> AttemptEnd:
        child, pool = await self._taken(place, job)
        ended = await self._served(Attempt(child, capabilities), child, pool, opening, seconds, cancel)
        self._end(child)
        return ended

    async def _stay(
        self, job: Job, place: CodePaths, opening: bytes, capabilities: Capabilities, cancel: Cancellation | None
    ) -> AttemptEnd:
        """Run the job in a child that has served this very workflow before, or one that from now on does."""
        key = (job.org, job.workflow, place)
        pool = None
        resident = self._residents.take(key)
        if resident is None:
            child, pool = await self._taken(place, None)
            resident = Resident(child)
        attempt = Attempt(resident.child, capabilities, may_stay=True)
        ended = await self._served(attempt, resident.child, pool, opening, job.timeout, cancel)
        if attempt.stays and ended.exit.max_rss_mb < self._most_staying_mb:
            self._residents.give(key, resident)
        else:
            self._end(resident.child)
        return ended

    async def _preloaded(
        self, job: Job, place: CodePaths, opening: bytes, capabilities: Capabilities, cancel: Cancellation | None
    ) -> AttemptEnd:
        """Run the job in a fork of a child that has imported its packages, where there is one; else in a child of its own."""
        if self._preloading is None or place.packages is None or not job.preload:
            return await self._converse(place, opening, job.timeout, capabilities, cancel, job)
        key = (job.org, place, job.module)
        found = self._preloading.take(key)
        if found is None:
            return await self._converse(place, opening, job.timeout, capabilities, cancel, job)
        found.child.masker = None  # a fork knows no secret of another
        attempt = Attempt(found.child, capabilities, may_stay=True)
        ended = await self._served(attempt, found.child, None, opening, job.timeout, cancel)
        self._preloading.give(key, found, stays=attempt.stays)
        return ended

    async def _to_preload(self, place: CodePaths) -> Child:
        return (await self._taken(place, None))[0]

    async def _taken(self, place: CodePaths, job: Job | None) -> tuple[Child, ChildPool]:
        """Take a child once not too many are dying, with its pool: the organization's template's, where there is one."""
        while len(self._ending) >= _MOST_ENDING:
            await asyncio.wait(self._ending, return_when=asyncio.FIRST_COMPLETED)
        if job is not None and self._templates is not None:
            found = await self._templates.take(job.org, place, job.module)
            if found is not None:
                return found
        return await self._pool.take(place), self._pool

    async def _served(
        self, attempt: Attempt, child: Child, pool: ChildPool | None, opening: bytes, seconds: float, cancel: Cancellation | None
    ) -> AttemptEnd:
        """Carry an attempt to its end in a child, of a pool where it was taken from one just now.

        The child is the caller's again, and is gone where this raises.
        """
        self._serving.add(child)
        if pool is not None:
            pool.tend_soon()
        try:
            ended = await attempt.ended(opening, seconds, cancel)
            self._spent += ended.exit.cpu_ms / 1000
            return ended
        except BaseException:
            await child.end()
            raise
        finally:
            self._serving.discard(child)
            if pool is not None:
                # Not at once: forking takes milliseconds of the core that is needed to report this run's end.
                pool.tend_soon()

    def _end(self, child: Child) -> None:
        ending = child.ending()
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _warm(self, place: CodePaths | None = None) -> Child:
        return await self._forked(await self._parent(self._grounded()), place)

    async def _fork(self, parent: Template, place: CodePaths) -> Child:
        return await self._forked(parent, place)

    async def _forked(self, parent: ForkServer, place: CodePaths | None) -> Child:
        async with self._gate:
            groups = self._cgroups if self.held else None
            return await process.start(parent, self._grounded(), self._who, self._limits_of_child, self.tier, place, groups)

    async def _template(self, place: CodePaths) -> Template:
        order = {**process.wire_limits(self._limits_of_child, place), "is_counted": "pids" in self.held}
        return await template.start(await self._parent(self._grounded()), order)

    def _grounded(self) -> Ground:
        if self._ground is None:
            raise SandboxUnavailable("the sandbox is not started")
        return self._ground

    def _share(self) -> Share:
        limits = self._limits
        memory = None if limits.memory_mb is None else (limits.memory_mb + limits.scratch_mb) << 20
        return Share(memory, limits.processes, limits.cores)

    async def _look_after(self) -> None:
        limit = None if self._limits.memory_mb is None else self._limits.memory_mb << 20
        await memory.watch(lambda: self._serving, limit, self._limits.processes, self.held)

    async def _parent(self, ground: Ground) -> Zygote:
        """Return the zygote; a new one where the last has died."""
        async with self._starting:
            if self._zygote is None or self._zygote.died.done():
                self._zygote = await start_zygote(ground, self._who, self.tier, self._lose)
            return self._zygote

    def _lose(self, reason: str) -> None:
        if self._ground is not None:
            _log.warning("sandbox.zygote_lost", reason=reason)


def _fields(job: Job) -> dict[str, Any]:
    return {
        "module": job.module,
        "function": job.function,
        "input": job.input,
        "run": job.run,
        "attempt": job.attempt,
        "org": job.org,
        "workflow": job.workflow,
        "recorded": job.recorded,
        "waiting": job.waiting,
        "age": job.age,
        "stays": job.isolation == "workflow",
        "scheduled_for": job.scheduled_for,
        "traceparent": job.traceparent,
    }
