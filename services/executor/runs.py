"""One attempt from claim to acknowledgement: what the supervisor does while a child runs the author's code."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import Any, Protocol

import msgspec
import nats.errors
import structlog
from nats.aio.msg import Msg

from services.executor import domain
from services.executor.bundles import Bundles
from services.executor.claim import AlreadyEnded, Claim, Outcome, Superseded, claim
from services.executor.egress import Reached
from services.executor.output import Output
from services.executor.sandbox import jail
from services.executor.sandbox.egress.network import Network
from services.executor.sandbox.egress.policy import Rules
from services.executor.sandbox.egress.resolver import Resolver
from services.executor.sandbox.errors import SandboxUnavailable
from services.executor.sandbox.jail import Sandbox, StepRecord
from services.executor.store import Store
from shared import tasks
from shared.blobs import Blobs
from shared.bus import Bus
from shared.encryption import Keyring
from shared.envelope import Envelope, derived_id, open_envelope, open_message, utc_now
from shared.errors import Conflict, Invalid, NotFound, Unavailable
from shared.messages import (
    Audited,
    LineChunk,
    RunCancelled,
    RunCrashed,
    RunError,
    RunFailed,
    RunRequested,
    RunStepCompleted,
    RunSucceeded,
    RunTimedOut,
    RunUsage,
)
from shared.pull import delivered
from shared.questions.oauth import GetToken, Token
from shared.streams import INLINE_BYTES, WORK

# The work consumers wait 30 s for an acknowledgement; three signs of life fit in.
IN_PROGRESS = 10.0
RETRY_DELAY = 1.0
_WORK = {work.name.removeprefix("executor-runs-"): work for work in WORK if work.message is RunRequested}
_log = structlog.get_logger()


class Deps(Protocol):
    """What running needs."""

    bus: Bus
    bundles: Bundles
    bodies: Blobs
    sandbox: Sandbox
    egress: Rules
    resolver: Resolver
    keyring: Keyring
    store: Store
    name: str


class Held(msgspec.Struct):
    """A run that this process works on: the newest copy of its work message, and its claim once there is one."""

    msg: Msg
    claim: Claim | None = None


class Runs:
    """The runs of this process, by id."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._held: dict[str, Held] = {}

    @property
    def count(self) -> int:
        """Return how many runs are held now."""
        return len(self._held)

    def cancel(self, run: str) -> None:
        """Tell the run's child to stop, if it is here."""
        held = self._held.get(run)
        if held is not None and held.claim is not None:
            held.claim.cancel.set()

    async def work(self, msg: Msg) -> None:
        """Carry a pulled `run.requested` to its end and acknowledge it; never raises for the run's own sake.

        Cancelling this task kills the child and gives the message back at once.
        """
        try:
            envelope = open_envelope(msg.data)
            request = open_message(envelope, RunRequested)
        except Invalid as error:
            work = _WORK[msg.subject.rpartition(".")[2]]
            await self._deps.bus.bury(work, msg, msg.metadata.num_delivered or 1, error, "can never work")
            return
        already = self._held.get(request.run)
        if already is not None:
            # Redelivered to ourselves, because a sign of life was late: the run goes on, under the newer copy.
            already.msg = msg
            return
        held = self._held[request.run] = Held(msg)
        with structlog.contextvars.bound_contextvars(run=request.run, correlation_id=envelope.correlationid):
            alive = asyncio.create_task(self._signs_of_life(held))
            try:
                done = await self._carry(held, envelope, request)
            except asyncio.CancelledError:
                with contextlib.suppress(nats.errors.Error):
                    await held.msg.nak()
                raise
            finally:
                await tasks.end([alive])
                del self._held[request.run]
            with contextlib.suppress(nats.errors.Error):
                if done:
                    await held.msg.ack()

    async def _carry(self, held: Held, envelope: Envelope, request: RunRequested) -> bool:
        """Return whether the work message is to be acknowledged; else it was given back or belongs to a newer claim."""
        deps = self._deps
        try:
            if await self._carried_out_long_ago(envelope, request):
                return True
            held.claim, steps = await claim(
                deps.bus,
                request.run,
                envelope.org,
                envelope,
                delivered(held.msg).sequence,
                executor=deps.name,
                tier=deps.sandbox.tier,
                redelivered=(held.msg.metadata.num_delivered or 1) > 1,
            )
            outcome = await self._attempt(held.claim, steps, envelope.org, request)
            await held.claim.end(outcome)
        except AlreadyEnded:
            return True
        except (Superseded, Conflict):
            _log.warning("run.superseded", run=request.run)
            return False
        except (Unavailable, SandboxUnavailable) as error:
            _log.warning("run.given_back", run=request.run, reason=str(error))
            with contextlib.suppress(nats.errors.Error):
                await held.msg.nak(delay=RETRY_DELAY)
            return False
        except Exception:
            _log.exception("run.supervisor_failed", run=request.run)
            with contextlib.suppress(nats.errors.Error):
                await held.msg.nak(delay=RETRY_DELAY)
            return False
        return True

    async def _carried_out_long_ago(self, envelope: Envelope, request: RunRequested) -> bool:
        """Return whether the run ended and may have been purged before this request came: the bus cannot tell then."""
        if not domain.doubtful(request.received_at, utc_now()):
            return False
        state = await self._deps.store.run(envelope.org, request.run)
        if state is None or not state.ended:
            return False
        _log.warning("run.requested_again", run=request.run)
        return True

    async def _attempt(self, mine: Claim, steps: dict[tuple[str, int], Any], org: str, request: RunRequested) -> Outcome:
        deps = self._deps
        try:
            bundle = await deps.bundles.get(request.version)
            found = next(one for one in bundle.manifest.workflows if one.name == request.workflow)
            inputs = request.input
            if request.input_ref is not None:
                inputs = msgspec.json.decode(await deps.bodies.read(request.input_ref))
        except (NotFound, StopIteration) as error:
            missing = error.detail if isinstance(error, NotFound) else f"this version defines no {request.workflow}"
            return _failed(request.run, mine.attempt, "error", "CodeMissing", missing)
        job = jail.Job(
            run=request.run,
            attempt=mine.attempt,
            org=org,
            workflow=request.workflow,
            bundle=bundle.folder,
            module=found.module,
            function=found.function,
            input=inputs,
            timeout=request.timeout,
        )
        allowed = _Allowed(deps, mine, org, request, steps)
        try:
            outcome = await deps.sandbox.run(job, allowed, cancel=mine.cancel)
        finally:
            # Before the end: a run that is said to have ended has all its lines, and the trail of what it was denied.
            await allowed.reached.finish()
        await allowed.lines.flush()
        return message_of(request.run, mine.attempt, outcome)

    async def _signs_of_life(self, held: Held) -> None:
        while True:
            await asyncio.sleep(IN_PROGRESS)
            with contextlib.suppress(nats.errors.Error):
                await held.msg.in_progress()


class _Allowed:
    """What one run may ask for; its organization and name are fixed here, never taken from the child."""

    def __init__(self, deps: Deps, mine: Claim, org: str, request: RunRequested, steps: dict[tuple[str, int], Any]) -> None:
        self._deps = deps
        self._claim = mine
        self._org = org
        self._run = request.run
        self._steps = steps
        self.lines = Output(request.run, request.workflow, mine.attempt, self._publish_lines)
        self.reached = Reached(request.run, org, self._audit, self.lines)
        self.network = Network(deps.egress.of(org), deps.resolver.of(org), self.reached.note)

    async def log(self, level: jail.Level, event: str, fields: dict[str, Any]) -> None:
        await self.lines.log(level, event, fields)

    async def output(self, stream: jail.Stream, text: str) -> None:
        await self.lines.text(stream, text)

    async def step_get(self, name: str, ordinal: int) -> StepRecord | None:
        if (name, ordinal) not in self._steps:
            return None
        return StepRecord(msgspec.Raw(msgspec.json.encode(self._steps[name, ordinal])))

    async def step_put(self, name: str, ordinal: int, result: msgspec.Raw) -> None:
        kept = msgspec.json.decode(result)
        await self._claim.step(
            RunStepCompleted(run=self._run, attempt=self._claim.attempt, name=name, ordinal=ordinal, result=kept)
        )
        self._steps[name, ordinal] = kept

    async def connection(self, name: str) -> dict[str, Any]:
        nonce = secrets.token_urlsafe(16)
        correlation = self._claim.started.correlationid
        question = GetToken(org=self._org, name=name, run=self._run, nonce=nonce, correlation_id=correlation)
        token: Token = await self._deps.bus.ask(question)
        opened = self._deps.keyring.open(token.sealed, self._org, nonce, "token")
        return {"name": token.name, "token": opened, "expires_at": token.expires_at}

    async def _audit(self, audited: Audited) -> None:
        await self._deps.bus.publish(self._deps.bus.seal(audited, org=self._org, cause=self._claim.started))

    async def _publish_lines(self, chunk: LineChunk) -> None:
        started = self._claim.started
        sealed = self._deps.bus.seal(chunk, org=self._org, cause=started, id=derived_id(started.id, "lines", str(chunk.chunk)))
        while True:
            try:
                await self._deps.bus.publish(sealed)
            except Unavailable:
                await asyncio.sleep(RETRY_DELAY)
                continue
            return


def message_of(run: str, attempt: int, outcome: jail.Outcome) -> Outcome:
    """Return the message that tells a sandbox's outcome; a result over 256 KiB is a failure that gives both figures."""
    usage = RunUsage(cpu_ms=outcome.usage.cpu_ms, max_rss_mb=outcome.usage.max_rss_mb)
    common: dict[str, Any] = {"run": run, "attempt": attempt, "duration_ms": outcome.duration_ms, "usage": usage}
    if outcome.status == "succeeded":
        raw = bytes(outcome.result or b"null")
        if len(raw) > INLINE_BYTES:
            detail = f"the result has {len(raw)} bytes as JSON; at most {INLINE_BYTES} are kept"
            return RunFailed(**common, reason="limit", error=RunError("ResultTooLarge", detail))
        return RunSucceeded(**common, result=msgspec.Raw(raw))
    if outcome.status == "cancelled":
        return RunCancelled(**common)
    failure = outcome.error or jail.Failure("Unknown", "the child said nothing about its end")
    error = RunError(failure.type, failure.message, failure.traceback)
    reason = outcome.reason or "error"
    if outcome.status == "timed_out":
        return RunTimedOut(**common, reason=reason, error=error)
    if outcome.status == "crashed":
        return RunCrashed(**common, reason=reason, error=error)
    return RunFailed(**common, reason=reason, error=error)


def _failed(run: str, attempt: int, reason: str, kind: str, message: str) -> RunFailed:
    return RunFailed(run=run, attempt=attempt, reason=reason, error=RunError(kind, message), duration_ms=0.0, usage=RunUsage())
