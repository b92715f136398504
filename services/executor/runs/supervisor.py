"""Supervises one attempt from claim to acknowledgement, while a child runs the author's code."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import Any, Protocol

import msgspec
import nats.errors
import structlog
from nats.aio.msg import Msg

from services.executor import domain
from services.executor.environments.builds import Builds
from services.executor.environments.environments import Failed, NotHad
from services.executor.runs import decide, end_messages, run_state, traced
from services.executor.runs.capabilities import CapabilityDeps, RunCapabilities
from services.executor.runs.claim import AlreadyEnded, Claim, Fenced, Outcome, fold
from services.executor.runs.concurrency import ConcurrencySlots
from services.executor.runs.dispatch import DispatchedRun, given_to, set_timer, take
from services.executor.runs.inherited import inherit
from services.executor.runs.past import past
from services.executor.runs.poison import TRIES, Poison
from services.executor.runs.recent import Recent
from services.executor.runs.run_state import RecordedCall, StepId
from services.executor.runs.shares import QueuedRun, Shares
from services.executor.sandbox import interface
from services.executor.sandbox.errors import SandboxUnavailable
from services.executor.sandbox.interface import Sandbox
from services.executor.sizing import RunUse
from services.executor.store import ExecutorStore
from services.executor.workspaces.bundles import Bundles
from services.executor.workspaces.packages import of as packages_of
from shared import tasks, tracing
from shared.blobs import Blobs
from shared.bus import Bus
from shared.consumer import give_up
from shared.egress.policy import EgressRules
from shared.egress.resolver import Resolver
from shared.encryption import Keyring
from shared.envelope import Envelope, open_envelope, open_message, rfc3339, utc_now
from shared.errors import Conflict, Invalid, NotFound, Unavailable
from shared.locks import LockLost
from shared.messages import (
    Message,
    RunCrashed,
    RunFailed,
    RunRequested,
    RunResumed,
    RunTimedOut,
    RunWaiting,
)
from shared.projection import Shards
from shared.pull import delivered
from shared.streams import WORK
from shared.suspects import Deadly, Suspects
from shared.values import later


def _lane(subject: str) -> tuple[str, str]:
    # run.<run>.<verb>.<priority>, and its group where it is not the default one.
    noun, _, _, priority, *_ = subject.split(".")
    return noun, priority


# The work consumers wait 30 s for an acknowledgement; three signs of life fit in.
IN_PROGRESS = 10.0
RETRY_DELAY = 1.0
# Seconds after which a parked run comes back at the latest, should no process remember it; half of it at the earliest.
PARKED = 300.0
# Seconds that giving a run back may take when this process is about to end.
GIVING_BACK = 2.0
# By the place of its messages: their noun, which names the shard, and their priority.
_WORK = {_lane(work.subjects[0]): work for work in WORK if RunRequested in work.messages}
_log = structlog.get_logger()


class SupervisorDeps(CapabilityDeps, Protocol):
    """Dependencies of running."""

    bus: Bus
    bundles: Bundles
    builds: Builds
    bodies: Blobs
    sandbox: Sandbox
    egress: EgressRules
    resolver: Resolver
    keyring: Keyring
    rows: Shards
    store: ExecutorStore
    concurrency: ConcurrencySlots
    recent: Recent
    poison: Poison
    shares: Shares
    use: RunUse
    name: str


class HeldRun(msgspec.Struct):
    """A run that this process works on: the newest copy of its work message, and its claim once there is one."""

    msg: Msg
    sequence: int
    done: asyncio.Event
    claim: Claim | None = None
    dispatching: Any = None
    """The span that ends with the claim."""
    alive: asyncio.Task[None] | None = None
    """Sends signs of life, once the run goes on for so long that it needs any."""


class Runs:
    """The runs of this process, by id."""

    def __init__(self, deps: SupervisorDeps) -> None:
        self._deps = deps
        self._held: dict[str, HeldRun] = {}
        self._suspects = {lane: Suspects(deps.bus.client, work.name) for lane, work in _WORK.items()}

    @property
    def count(self) -> int:
        """Return how many runs are held now."""
        return len(self._held)

    def cancel(self, run: str) -> None:
        """Stop the run's child, if it is here."""
        held = self._held.get(run)
        if held is not None and held.claim is not None:
            held.claim.cancel.set()

    async def work(self, msg: Msg) -> None:
        """Carry a run that was dispatched to its end, or to where it waits, and acknowledge; never raises for the run's own sake.

        Cancelling this task kills the child and gives the run back at once.
        """
        try:
            envelope = open_envelope(msg.data)
            message: Message = open_message(envelope)
            if not isinstance(message, RunRequested | RunResumed):
                raise Invalid(f"{envelope.type} dispatches no run")
        except Invalid as error:
            await self._bury(msg, msg.metadata.num_delivered or 1, error)
            return
        sequence = delivered(msg).sequence
        while (already := self._held.get(message.run)) is not None:
            if already.sequence == sequence:
                # Redelivered to ourselves, because a sign of life was late: the run goes on, under the newer copy.
                already.msg = msg
                return
            # Resumed before the end of its last attempt was all put away.
            await already.done.wait()
        held = self._held[message.run] = HeldRun(msg, sequence, asyncio.Event())
        again = (msg.metadata.num_delivered or 1) > 1
        held.dispatching = traced.dispatching(envelope, _WORK[_lane(msg.subject)].name, again=again)
        structlog.contextvars.bind_contextvars(run=message.run, correlation_id=envelope.correlationid)
        alive = asyncio.get_running_loop().call_later(IN_PROGRESS, self._begin_signs_of_life, held)
        try:
            done = await self._carry(held, envelope, message)
        except asyncio.CancelledError:
            await self._give_back(held)
            raise
        finally:
            alive.cancel()
            if held.alive is not None:
                await tasks.end([held.alive])
            if held.dispatching is not None:
                held.dispatching.finish()
            del self._held[message.run]
            held.done.set()
        with contextlib.suppress(nats.errors.Error):
            if done:
                await held.msg.ack()

    async def _give_back(self, held: HeldRun) -> None:
        """Let another worker have the run, at once, and without a claim that looks as if it had been lost."""
        with contextlib.suppress(nats.errors.Error, Fenced, AlreadyEnded, TimeoutError):
            if held.claim is not None:
                async with asyncio.timeout(GIVING_BACK):
                    await held.claim.end(run_state.resumed(held.claim.state))
                await held.msg.ack()
                return
        with contextlib.suppress(nats.errors.Error):
            await held.msg.nak()

    async def _carry(self, held: HeldRun, envelope: Envelope, message: RunRequested | RunResumed) -> bool:
        """Return whether the work message is to be acknowledged; else it was given back or belongs to a newer claim."""
        try:
            # From its claim on an attempt that is lost counts in the run itself.
            async with self._suspects[_lane(held.msg.subject)].handling(held.msg):
                if isinstance(message, RunRequested) and await self._carried_out_long_ago(envelope, message):
                    return True
                dispatch = await self._dispatched(held, envelope, message)
            return await self._begun(held, dispatch)
        except AlreadyEnded:
            return True
        except Deadly as error:
            await self._bury(held.msg, held.msg.metadata.num_delivered or 1, error, "ends its service")
            return False
        except (Fenced, Conflict):
            _log.warning("run.fenced", run=message.run)
            return False
        except (Unavailable, SandboxUnavailable) as error:
            _log.warning("run.given_back", run=message.run, reason=str(error))
            await asyncio.sleep(RETRY_DELAY)
            await self._give_back(held)
            return False
        except Exception as error:
            return await self._poisoned(held, message.run, error)

    async def _begun(self, held: HeldRun, dispatch: DispatchedRun) -> bool:
        """Begin the run when its organization's share allows it, and carry it to its end; returns as `_carry`.

        Until then it takes no concurrency slot, which others could use.
        """
        deps = self._deps
        place = QueuedRun(dispatch.state.id, dispatch.state.org, dispatch.state.priority)
        try:
            if decide.on_dispatch(dispatch.state, dispatch.sequence, utc_now()) == "claim" and not await deps.shares.enter(place):
                return await self._parked(dispatch, place)
            held.claim, steps = await take(dispatch, deps, deps.sandbox.tier)
            if held.dispatching is not None:
                held.dispatching.finish()
            with tracing.within(held.claim.span):
                outcome = await self._attempt(held.claim, steps)
                if isinstance(outcome, RunWaiting) and outcome.until is not None:
                    await self._set_timer(held.claim, outcome.until)
                traced.ended(held.claim.span, await held.claim.end(outcome))
            deps.recent.keep(held.claim.current)
        finally:
            deps.shares.leave(place)
        return True

    async def _parked(self, dispatch: DispatchedRun, place: QueuedRun) -> bool:
        """Make the run wait for a worker; returns whether its message is to be acknowledged."""
        if dispatch.state.held:
            return False  # its last attempt was lost, which a wait would hide: it comes again, after the acknowledgement wait
        drawn = random.uniform(0.5, 1.0)  # noqa: S311 - it spreads load, and is no secret
        try:
            await take(dispatch, self._deps, self._deps.sandbox.tier, park=rfc3339(later(utc_now(), PARKED * drawn)))
        except AlreadyEnded:
            self._deps.shares.park(place)
        return True

    async def _poisoned(self, held: HeldRun, run: str, error: Exception) -> bool:
        """Try a run again that makes us raise, or end it; returns whether its message is to be acknowledged."""
        try:
            if await self._deps.poison.record(run, error):
                return True
        except Unavailable as unavailable:
            _log.warning("run.given_back", run=run, reason=str(unavailable))
        except Exception:
            _log.exception("run.not_ended", run=run)
            tries = held.msg.metadata.num_delivered or 1
            if tries > TRIES:
                await self._bury(held.msg, tries, error)
                return False
        with contextlib.suppress(nats.errors.Error):
            await held.msg.nak(delay=RETRY_DELAY)
        return False

    async def _bury(self, msg: Msg, tries: int, error: Exception, reason: str = "can never work") -> None:
        await give_up(self._deps.bus, _WORK[_lane(msg.subject)], msg, tries, error, reason)

    async def _dispatched(self, held: HeldRun, envelope: Envelope, message: RunRequested | RunResumed) -> DispatchedRun:
        """Return the run so far: of one that is dispatched for the first time nothing need be read."""
        if isinstance(message, RunRequested) and (held.msg.metadata.num_delivered or 1) == 1:
            state = run_state.evolve(None, envelope, message, held.sequence)
            if state is not None:
                return DispatchedRun(envelope, held.sequence, state, {})
        folded = await fold(self._deps.bus, message.run)
        if folded is None:
            raise AlreadyEnded
        return DispatchedRun(envelope, held.sequence, folded.state, folded.steps)

    async def _set_timer(self, mine: Claim, until: str) -> None:
        while True:
            try:
                await set_timer(self._deps.bus, mine.state.org, mine.started, mine.run, until)
            except Unavailable:
                await asyncio.sleep(RETRY_DELAY)
                continue
            return

    async def _carried_out_long_ago(self, envelope: Envelope, request: RunRequested) -> bool:
        """Return whether the run ended and may have been purged before this request came: then the bus does not show it."""
        if not domain.doubtful(request.received_at, utc_now()):
            return False
        state = await self._deps.store.run(envelope.org, request.run)
        if state is None or not state.ended:
            return False
        _log.warning("run.requested_again", run=request.run)
        return True

    async def _attempt(self, mine: Claim, steps: dict[StepId, RecordedCall]) -> Outcome:
        deps = self._deps
        run = mine.state
        try:
            bundle = await deps.bundles.get(run.version)
            found = bundle.workflow(run.workflow)
            inputs = await given_to(run, deps.bodies)
            await inherit(mine, steps, deps)
            packages = await deps.builds.folder(packages_of(bundle.manifest.environments, found.path))
        except NotFound as error:
            return end_messages.failed(run.id, mine.attempt, "CodeMissing", error.detail)
        except NotHad as error:
            _log.warning("run.packages_not_had", run=run.id, reason=str(error))
            return end_messages.without_packages(run.id, mine.attempt, error)
        except Failed as error:
            return end_messages.failed(run.id, mine.attempt, "PackagesMissing", str(error))
        job = interface.Job(
            run=run.id,
            attempt=mine.attempt,
            org=run.org,
            workflow=run.workflow,
            bundle=bundle.folder,
            module=found.module,
            function=found.function,
            input=inputs,
            timeout=run.timeout,
            isolation="workflow" if found.policy.isolation == "workflow" else "run",
            site_packages=packages,
            preload=found.policy.preload,
            scheduled_for=run.scheduled_for,
            traceparent=None if mine.span is None else str(mine.span.context),
            **past(run, steps, utc_now()),
        )
        capabilities = RunCapabilities(deps, mine, steps)
        try:
            with (
                deps.bundles.held(bundle.folder),
                deps.builds.held(packages),
                tracing.span("sandbox", attributes={"millrace.sandbox.tier": deps.sandbox.tier}),
            ):
                outcome = await _run(deps.sandbox, job, capabilities, mine)
                deps.use.ended(outcome.duration_ms / 1000, outcome.usage.max_rss_mb)
        finally:
            # Before the end: a run that has ended has all its lines, and the trail of its denied connections.
            await capabilities.finish()
        await capabilities.lines.flush()
        if outcome.status == "waiting":
            return end_messages.waiting(run.id, mine.attempt, capabilities.waits, outcome)
        end = end_messages.of_outcome(run.id, mine.attempt, outcome)
        if isinstance(end, RunFailed | RunTimedOut | RunCrashed):
            policy = found.policy
            drawn = random.random()  # noqa: S311 - it spreads load, and is no secret
            pause = decide.pause_before_retry(policy, found.retries, run.failures, end.reason, drawn)
            if pause is not None:
                return end_messages.retried(end, pause)
        return end

    def _begin_signs_of_life(self, held: HeldRun) -> None:
        held.alive = asyncio.create_task(self._signs_of_life(held))

    async def _signs_of_life(self, held: HeldRun) -> None:
        while True:
            with contextlib.suppress(nats.errors.Error):
                await held.msg.in_progress()
            await asyncio.sleep(IN_PROGRESS)


async def _run(sandbox: Sandbox, job: interface.Job, capabilities: RunCapabilities, mine: Claim) -> interface.Outcome:
    """Return the end of an attempt; where it has lost a lock its child is killed at once, since somebody else may hold it."""
    began = time.monotonic()
    try:
        async with capabilities.held.guard():
            return await sandbox.run(job, capabilities, cancel=mine.cancel)
    except LockLost as error:
        failure, spent = interface.Failure("LockLost", error.detail), int(1000 * (time.monotonic() - began))
        return interface.Outcome(status="failed", reason="error", error=failure, usage=interface.Usage(0, 0), duration_ms=spent)
