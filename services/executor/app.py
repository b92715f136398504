"""The executor service, put together: the only file here that knows concrete things."""

from __future__ import annotations

import asyncio
import functools
import os
import sysconfig
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
import uv
from sqlalchemy.ext.asyncio import AsyncEngine

from services.executor.config import ExecutorSettings, read
from services.executor.environments import sources
from services.executor.environments.access import IndexAccess, operators_secret
from services.executor.environments.builds import Builds
from services.executor.environments.disk import Disk, reachable
from services.executor.environments.environments import Environments
from services.executor.environments.housekeeping import Housekeeping
from services.executor.projections import projected
from services.executor.questions import QUESTIONS
from services.executor.repositories import remote
from services.executor.repositories.following import HANDLERS, Following
from services.executor.repositories.libraries import place_of_libraries
from services.executor.repositories.remote import Remotes
from services.executor.runs import groups
from services.executor.runs.cancellations import watch_cancellations
from services.executor.runs.concurrency import ConcurrencySlots
from services.executor.runs.groups import WorkerGroups
from services.executor.runs.looks import Looks
from services.executor.runs.metrics import RunMetrics
from services.executor.runs.parking import Parking
from services.executor.runs.poison import Poison
from services.executor.runs.purge import Purger
from services.executor.runs.recent import Recent
from services.executor.runs.resumer import Resumer
from services.executor.runs.scaling import Scaling, allowed
from services.executor.runs.shares import Shares
from services.executor.runs.supervisor import Runs
from services.executor.runs.usage import RunCounts
from services.executor.runs.worker import Worker
from services.executor.sandbox.builder import Builder
from services.executor.sandbox.children import Children
from services.executor.sandbox.errors import SandboxUnavailable
from services.executor.sandbox.interface import Sandbox, Tier
from services.executor.sandbox.machine import Machine
from services.executor.sandbox.process import ChildLimits
from services.executor.sizing import RunUse
from services.executor.state import States
from services.executor.store import ExecutorStore
from services.executor.workspaces import commits
from services.executor.workspaces.adapter_jobs import AdapterJobs
from services.executor.workspaces.bundles import Bundles
from services.executor.workspaces.history import History
from services.executor.workspaces.slow import Slow
from services.executor.workspaces.upkeep import keep_up
from shared import service
from shared.blobs import GRACE, Blobs
from shared.bus import Bus, connected
from shared.db import engine_of
from shared.egress.resolver import Resolver
from shared.encryption import Keyring
from shared.envelope import new_id, utc_now
from shared.expressions.pool import Expressions, evaluating
from shared.health import Health
from shared.levels import follow_level
from shared.locks import Locks
from shared.projection import Projection, Shards, started
from shared.questions.adapters import AdapterEntry
from shared.questions.workflows import WorkflowEntry
from shared.quotas import Limits, Quotas, RunsUsed
from shared.registry import RegistryWriter
from shared.removals import RemovedOrganizations
from shared.service import Runtime
from shared.streams import DEFAULT_GROUP, work_of_runs

_log = structlog.get_logger()


class Executor:
    """The parts that runs, questions and projections of this service share."""

    def __init__(
        self,
        settings: ExecutorSettings,
        bus: Bus,
        engine: AsyncEngine,
        sandbox: Sandbox,
        expressions: Expressions,
        environments: Environments,
        resolver: Resolver,
        remotes: Remotes,
        health: Health,
        *,
        is_able: bool,
    ) -> None:
        self.bus = bus
        self.engine = engine
        self.store = ExecutorStore(engine)
        self.states = States(engine)
        self.locks = Locks(bus.client, "executor")
        self.concurrency = ConcurrencySlots(engine)
        self.removals = RemovedOrganizations(bus.client, health)
        self.recent = Recent(self.removals.is_gone_at)
        self.looks = Looks(bus, self.store)
        self.poison = Poison(bus)
        self.shares = Shares(settings.slots.least)
        self.use = RunUse()
        # Shown in run.started: unique among replicas and over restarts.
        self.name = f"{os.uname().nodename}-{os.getpid()}-{new_id()[-8:]}"
        self.groups = WorkerGroups(bus.client, self.name, settings.groups if is_able else (), self.store.queued_in_groups)
        self.longest_chain = settings.longest_chain
        self.quotas = Quotas(bus.client, health, Limits(**settings.quotas))
        self.slow = Slow()
        self.sandbox = sandbox
        self.expressions = expressions
        self.database_url = settings.database_url
        self.egress = settings.egress
        self.resolver = resolver
        self.keyring = Keyring(settings.keys)
        self.blobs = Blobs(bus.client, "workspace", renewed_after=GRACE / 2)
        self.bodies = Blobs(bus.client, "bodies")
        self.results = Blobs(bus.client, "results")
        self.agreed = Blobs(bus.client, "agreed")
        self.remotes = remotes
        self.following = Following()
        self.bundles = Bundles(settings.data / "bundles", self.blobs, compile_=sandbox.compile, forget=sandbox.forget)
        self.builds = Builds(environments, self.blobs, self._register)
        self.workflows = RegistryWriter(bus.client, "workflows", WorkflowEntry)
        self.adapters = RegistryWriter(bus.client, "adapters", AdapterEntry)
        self.adapter_jobs = AdapterJobs()
        self.history = History(engine)
        self.catalog: Projection
        self.versions: Projection
        self.rows: Shards
        self.lines: Projection

    async def _register(self, org: str) -> None:
        await commits.register(org, self)


@asynccontextmanager
async def _packages(
    settings: ExecutorSettings, bus: Bus, tier: Tier | None, resolver: Resolver, health: Health
) -> AsyncIterator[tuple[Environments, Housekeeping]]:
    """Have environments behind the walls of a tier, for the block."""
    sandbox = settings.data / "sandbox"
    disk = Disk(settings.data / "environments")
    await asyncio.to_thread(disk.start)
    program = await asyncio.to_thread(reachable, Path(uv.find_uv_bin()), disk.folder)
    shown = [program, *settings.indexes.folders]
    builder = Builder(sandbox, disk.folder, tier=tier, uid=settings.sandbox_uid, shown=shown)
    most_each = settings.environment_bytes * 3 // 4  # the others have room for something
    headers = [Path(sysconfig.get_path("include")), Path("/usr/include")]
    stranger = Builder(
        sandbox, disk.folder, tier=tier, uid=settings.sandbox_uid, shown=headers, limits=sources.LIMITS, output=sources.OUTPUT
    )
    try:
        access = IndexAccess(settings.indexes, functools.partial(operators_secret, bus, Keyring(settings.keys)))
        environments = Environments(disk, builder, access, program, resolver, stranger, settings.sdists, most_each)
        housekeeping = Housekeeping(disk, environments, most_bytes=settings.environment_bytes, most_each=most_each)
        health.state("environments", housekeeping.state)
        yield environments, housekeeping
    finally:
        await builder.close()
        await stranger.close()
        await asyncio.to_thread(disk.close)


@asynccontextmanager
async def _remotes(settings: ExecutorSettings, tier: Tier | None, resolver: Resolver) -> AsyncIterator[Remotes]:
    """Have the ways to remote repositories, behind the walls of a tier, for the block."""
    disk = Disk(settings.data / "repositories")
    await asyncio.to_thread(disk.start)
    libraries = await asyncio.to_thread(place_of_libraries, disk.folder)
    builder = Builder(
        settings.data / "sandbox", disk.folder, tier=tier, uid=settings.sandbox_uid, shown=[libraries], limits=remote.LIMITS
    )  # fmt: skip
    try:
        yield Remotes(disk, builder, libraries, settings.egress, resolver)
    finally:
        await builder.close()
        await asyncio.to_thread(disk.close)


@asynccontextmanager
async def running(settings: ExecutorSettings, runtime: Runtime) -> AsyncIterator[None]:
    """Run the service for the block."""
    async with AsyncExitStack() as stack:
        engine = engine_of(settings, runtime.health, service="executor")
        stack.push_async_callback(engine.dispose)
        bus = await stack.enter_async_context(connected(settings.nats_url, service="executor", health=runtime.health))
        await stack.enter_async_context(runtime.sink.sending(bus.publish_log))
        tiers: tuple[Tier, ...] = ("A", "B") if settings.tier is None else (settings.tier,)
        sandbox = Children(
            settings.data / "sandbox",
            uid=settings.sandbox_uid,
            size=settings.warm,
            limits=ChildLimits(processes=settings.processes, cores=settings.cores),
            tiers=tiers,
            unsafe=settings.unsafe,
            preloads=settings.preloads,
        )
        try:
            await sandbox.start()
        except SandboxUnavailable as error:
            # Nothing is run bare by accident: the service reports missing walls and answers, but takes no work and reads no code;
            # runs wait on the bus for an executor that can, be it this one once repaired.
            is_able = False
            _log.error("sandbox.unavailable", reason=str(error))
            runtime.health.report("sandbox", str(error))
            runtime.health.state("sandbox", {"tier": None, "refused": sandbox.refused})
        else:
            is_able = True
            stack.push_async_callback(sandbox.close)
            if sandbox.tier == "none":
                _log.warning("sandbox.unsafe", refused=sandbox.refused)
            runtime.health.report("sandbox", None)
            runtime.health.state("sandbox", sandbox.state)
        expressions = await stack.enter_async_context(evaluating(runtime.health))
        resolver = Resolver()
        stack.callback(resolver.close)
        packages = _packages(settings, bus, sandbox.tier if is_able else None, resolver, runtime.health)
        environments, housekeeping = await stack.enter_async_context(packages)
        remotes = await stack.enter_async_context(_remotes(settings, sandbox.tier if is_able else None, resolver))
        executor = Executor(
            settings, bus, engine, sandbox, expressions, environments, resolver, remotes, runtime.health, is_able=is_able
        )
        stack.push_async_callback(executor.builds.close)
        stack.push_async_callback(executor.adapter_jobs.close)
        await executor.bundles.start()
        stack.push_async_callback(executor.bundles.close)

        resumer = Resumer(executor)
        runtime.background.start(executor.removals.run(), "registry removals")
        projections = started(
            [*projected(bus.client, RunMetrics(runtime.health, utc_now()).ended), *resumer.followers()],
            runtime.background.start,
            bus.client,
            engine,
            settings.database_url,
            runtime.health,
            executor.removals.is_past,
        )
        executor.catalog = projections["catalog"]
        executor.versions = projections["history"]
        executor.rows = Shards("runs", projections)
        executor.lines = projections["lines"]
        runs = Runs(executor)
        served = {group: work_of_runs(group) for group in executor.groups.mine}
        in_order = [work for same in zip(*served.values(), strict=True) for work in same]
        worker = Worker(bus.client, runs, settings.slots.least, in_order, drain=settings.drain)
        scaling = Scaling(bus.client, served, allowed(settings.slots), worker, executor.shares, sandbox, executor.use, Machine())
        runtime.leaving.extend([executor.groups.leave, executor.shares.stand_back, worker.leave])
        of_slots = scaling.state if is_able else dict[str, Any](slots=0).copy
        runtime.health.state("pool", lambda: {**of_slots(), "taken": worker.taken, **sandbox.pool()}, counters=("changes",))
        runtime.background.start(watch_cancellations(bus, runs), "cancellations")
        runtime.health.state("shares", executor.shares.state, labels=dict.fromkeys(("running", "in_place", "parked"), "org"))
        bus.answer(QUESTIONS, executor)
        bus.handle(HANDLERS, executor)
        await bus.start()
        # Before what the answers use.
        stack.push_async_callback(bus.drain)
        runtime.background.start(bus.attend(), "broker")
        runtime.background.start(follow_level(bus, runtime.health), "log level")
        named = [work for group, work_of_it in served.items() if group != DEFAULT_GROUP for work in work_of_it]
        await groups.make(bus.client, named)
        runtime.background.start(bus.keep_durables(named), "durables")
        runtime.background.start(executor.groups.run(), "worker groups")
        runtime.health.state("groups", executor.groups.state, labels=dict.fromkeys(("executors", "queued", "unserved"), "group"))
        # When all that goes on in the background has ended, and nothing is pulled any more, but before the sandbox is closed.
        stack.push_async_callback(worker.drain)
        stack.callback(executor.shares.close)
        if is_able:
            by_group = dict.fromkeys(("queued", "in_work", "age_s", "desired_replicas"), "group")
            runtime.health.state("workers", scaling.wanted, labels=by_group)
            runtime.background.start(worker.run(), "worker")
            runtime.background.start(scaling.run(), "scaling")
            runtime.background.start(commits.resume(executor), "resuming")
        runtime.background.start(executor.quotas.organizations.run(), "registry orgs")
        usage = RunCounts(engine, RegistryWriter(bus.client, "usage", RunsUsed), executor.quotas)
        runtime.background.start(usage.run(settings.database_url), "usage")
        runtime.background.start(housekeeping.run(), "environments")
        runtime.background.start(keep_up(executor, artifacts_kept=settings.artifacts_kept), "workspaces")
        runtime.background.start(Parking(executor, resumer).run(), "parking")
        runtime.background.start(resumer.sweep(), "sweep")
        runtime.background.start(executor.states.sweep(settings.database_url), "state")
        runtime.background.start(Purger(executor, kept=settings.runs_kept).run(), "purger")
        yield


def main() -> int:
    """Run the service as a process; returns its exit code."""
    return service.main("executor", read, running)
