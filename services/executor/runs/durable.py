"""Records steps that are done, waits that are over and runs that were requested: later attempts must not repeat them."""

from __future__ import annotations

from typing import Protocol

import msgspec
import structlog

from services.executor.runs import approvals, decide
from services.executor.runs.approvals import approval_id, checked_question
from services.executor.runs.asked import of_wait
from services.executor.runs.claim import Claim, children_outcomes, outlasting, read_since, sound
from services.executor.runs.run_state import RecordedCall, StepId
from services.executor.sandbox.errors import OverLimit
from services.executor.sandbox.interface import Kind, StartedRun, StepRecord
from services.executor.store import ExecutorStore
from shared.bus import Bus
from shared.envelope import derived_id, rfc3339, utc_now
from shared.errors import Conflict, Invalid, NotFound, TooLarge
from shared.messages import AwaitedEvent, Resolved, RunAsked, RunRequested, RunStepCompleted, Wait
from shared.organizations import first_seen
from shared.questions.workflows import WorkflowEntry
from shared.streams import INLINE_BYTES
from shared.values import YEAR, later, moment_of

# Runs that start each other: a loop ends here.
MOST_HOPS = 32
# Runs that one attempt may ask for.
CHILDREN = 1000
# Steps and waits of one run: each attempt begins with all of them.
STEPS = 10_000
# Bytes of their results together: each attempt begins by reading them, and large data belongs into a file.
RECORDED = 32 * 1024 * 1024
# Bytes of a run's open waits: they travel in one message, and are looked at together.
WAITING = 1024 * 1024
# Seconds by which the clock of another machine may be ahead.
CLOCKS = 86_400.0
_log = structlog.get_logger()


class DurableDeps(Protocol):
    """Dependencies of the records."""

    bus: Bus
    store: ExecutorStore
    longest_chain: int


class Durable:
    """The records of one run, as one attempt meets and adds to them."""

    def __init__(self, deps: DurableDeps, mine: Claim, steps: dict[StepId, RecordedCall]) -> None:
        self._deps = deps
        self._claim = mine
        self._org = mine.state.org
        self._run = mine.run
        self._steps = steps
        self._started = 0
        self._bytes = sum(_size(recorded) for recorded in steps.values())
        self._waiting = 0
        self.waits: dict[StepId, Wait] = {}
        """The waits of the run: requests whose answer was not there yet."""

    def get(self, step: StepId) -> StepRecord | None:
        """Return the steps in the stream when the run was claimed, and those recorded since."""
        found = self._steps.get(step)
        return None if found is None else _record(found)

    async def put(self, name: str, ordinal: int, position: int | None, result: msgspec.Raw) -> None:
        """Append the step to the run's messages. Raises `TooLarge`."""
        check_size(f"the result of step {name!r}", result)
        await self._keep(("step", name, ordinal), RecordedCall(msgspec.json.decode(result), position))

    def awaited(self, name: str, ordinal: int) -> AwaitedEvent | None:
        """Return the event that an earlier attempt waited for in this place, and that has not come."""
        before = self._before("event", name, ordinal)
        return None if before is None else before.awaited

    async def wait(
        self,
        of: Kind,
        name: str,
        ordinal: int,
        position: int | None,
        seconds: float | None,
        awaited: AwaitedEvent | None = None,
    ) -> StepRecord | None:
        """Look whether the wait is over by now, which is kept like a step; else record that the run is to wait for it."""
        known = self._steps.get((of, name, ordinal))
        if known is not None:
            return _record(known)
        self._check_room()
        if of == "run":
            await self._check_own(name)
        until = self._until(of, name, ordinal, seconds)
        wait = Wait(kind=of, name=name, ordinal=ordinal, position=position, until=until, awaited=awaited)
        over = await outlasting(lambda: self._over(wait), run=self._run, wait=of)
        if over is None:
            self._drop((of, name, ordinal))
            size = len(msgspec.json.encode(wait))
            if self._waiting + size > WAITING:
                raise TooLarge(f"this run waits for {len(self.waits)} things at once: with one more they have over {WAITING} bytes")
            self._waiting += size
            self.waits[of, name, ordinal] = wait
            return None
        recorded = RecordedCall(over[0].result, position, over[0].timed_out)
        await self._keep((of, name, ordinal), recorded)
        return _record(recorded)

    async def ask(
        self, name: str, ordinal: int, position: int | None, seconds: float | None, question: msgspec.Raw
    ) -> StepRecord | None:
        """Ask people, where no attempt has yet, and look whether they have answered. Raises `Invalid`, `TooLarge`."""
        if (known := self._steps.get(("ask", name, ordinal))) is not None:
            return _record(known)
        if of_wait(self._claim.current.asks, name, ordinal) is None:
            self._check_room()
            asked = checked_question(question)
            if len(self._claim.current.asks) >= approvals.MOST:
                raise TooLarge(f"this run has asked people {approvals.MOST} times: there may not be more")
            id_ = approval_id(self._run, name, ordinal)
            until = None if seconds is None else rfc3339(later(utc_now(), seconds))
            asking = RunAsked(
                run=self._run, attempt=self._claim.attempt, approval=id_, name=name, ordinal=ordinal, question=asked, until=until
            )
            await self._claim.ask(asking)
        return await self.wait("ask", name, ordinal, position, seconds)

    async def give_up(self, of: Kind, name: str, ordinal: int, position: int | None) -> None:
        """Record that the workflow does not wait any more: a later attempt will not learn how the wait would have ended."""
        self._drop((of, name, ordinal))
        known = self._steps.get((of, name, ordinal))
        if known is None or not known.given_up:
            await self._keep((of, name, ordinal), RecordedCall(None, position, given_up=True))

    def _drop(self, step: StepId) -> None:
        """Wait for something no more."""
        if (wait := self.waits.pop(step, None)) is not None:
            self._waiting -= len(msgspec.json.encode(wait))

    async def _over(self, wait: Wait) -> list[Resolved] | None:
        """Return how a wait has ended by now. Raises `Unavailable`."""
        state = sound(await read_since(self._deps.bus, self._claim.current))
        if state is None:
            raise NotFound("the run is gone")
        waiting = msgspec.structs.replace(state, status="waiting", held=False, waits=[wait], until=None)
        return decide.resumption(
            waiting, self._steps, await children_outcomes(waiting, self._deps.bus, self._deps.store), utc_now()
        )

    async def start(self, asked: StartedRun) -> str:
        """Ask for a run in the organization of this one; which one derives from this run and the place that asks."""
        parent = self._claim.state
        if self._started >= CHILDREN:
            raise TooLarge(f"this attempt has asked for {CHILDREN} runs: it may not ask for more")
        self._started += 1
        if asked.run_at is not None and moment_of(asked.run_at) > later(utc_now(), YEAR + CLOCKS):
            raise Invalid("run_at is more than a year ahead")
        if parent.hops >= MOST_HOPS:
            raise Invalid(f"{MOST_HOPS} runs have started each other up to here: no more do")
        most, chain = self._deps.longest_chain, self._claim.started.correlationid
        length = await outlasting(lambda: self._deps.store.length_of_chain(self._org, chain, most), run=self._run)
        if length >= most:
            raise Invalid(f"this chain of runs that start each other has {most} runs already, and no more are allowed")
        entry = await outlasting(lambda: self._workflow(asked.workflow), run=self._run, child=asked.workflow)
        child = derived_id(self._run, "child", asked.workflow, str(asked.ordinal))
        request = RunRequested(
            run=child,
            workflow=entry.name,
            version=entry.version,
            workflow_org=entry.org,
            input=asked.input,
            requested_by=f"run:{self._run}",
            timeout=entry.timeout,
            deadline=entry.policy.queue_timeout,
            priority=asked.priority or parent.priority,
            group=entry.policy.group,
            run_at=asked.run_at,
            concurrency_key=asked.concurrency_key,
            parent=self._run,
            hops=parent.hops + 1,
        )
        bus = self._deps.bus
        sealed = bus.seal(request, org=self._org, cause=self._claim.started, id=child)
        try:
            await outlasting(lambda: bus.append(sealed, 0), run=self._run, child=asked.workflow)
        except Conflict:
            _log.info("child.started_before", child=child)  # by an earlier attempt, which did not come to record it
        await self._keep(("start", asked.workflow, asked.ordinal), RecordedCall(child, asked.position))
        return child

    async def _workflow(self, name: str) -> WorkflowEntry:
        found = await first_seen(self._org, lambda org: self._deps.store.workflow(org, name))
        if found is None:
            raise NotFound(f"there is no workflow {name!r} in this organization or in global")
        return found[0]

    async def _check_own(self, run: str) -> None:
        if any(kind == "start" and recorded.result == run for (kind, _, _), recorded in self._steps.items()):
            return
        raise NotFound(f"{run!r} is no run that this one has started")

    def _until(self, of: Kind, name: str, ordinal: int, seconds: float | None) -> str | None:
        """Return when the wait is over by itself: a wait that an earlier attempt began is not begun anew."""
        before = self._before(of, name, ordinal)
        if before is not None:
            return before.until
        if of == "ask" and (ask := of_wait(self._claim.current.asks, name, ordinal)) is not None:
            return ask.until
        return None if seconds is None else rfc3339(later(utc_now(), seconds))

    def _before(self, of: Kind, name: str, ordinal: int) -> Wait | None:
        """Return the wait as an earlier attempt began it."""
        return next((one for one in self._claim.state.waits if (one.kind, one.name, one.ordinal) == (of, name, ordinal)), None)

    def _check_room(self, more: int = 0) -> None:
        """Raise `OverLimit` for a record that would be one too many, or where the run has recorded more."""
        if self._bytes + more > RECORDED:
            message = (
                f"the results of this run's steps and waits would have {self._bytes + more} bytes as JSON together; at most "
                f"{RECORDED} are recorded of one run: write what is large to a file (`files.write`) and return its path"
            )
            raise OverLimit(message, "RecordLimit")

    async def _keep(self, step: StepId, recorded: RecordedCall) -> None:
        if len(self._steps) >= STEPS:
            raise TooLarge(f"{STEPS} steps and waits of this run are recorded: there may not be more")
        size = _size(recorded)
        self._check_room(size)
        self._bytes += size  # at once: others may be about to be kept at the same time
        kind, name, ordinal = step
        await self._claim.step(
            RunStepCompleted(
                run=self._run,
                attempt=self._claim.attempt,
                kind=kind,
                name=name,
                ordinal=ordinal,
                position=recorded.position,
                result=recorded.result,
                timed_out=recorded.timed_out,
                given_up=recorded.given_up,
            )
        )
        self._steps[step] = recorded


def check_size(what: str, document: msgspec.Raw) -> None:
    """Raise `TooLarge` for a value that no message may hold: the broker would refuse it each time."""
    size = len(bytes(document))
    if size > INLINE_BYTES:
        raise TooLarge(f"{what} has {size} bytes as JSON; at most {INLINE_BYTES} are kept")


def _size(found: RecordedCall) -> int:
    return len(msgspec.json.encode(found.result))


def _record(found: RecordedCall) -> StepRecord:
    return StepRecord(msgspec.Raw(msgspec.json.encode(found.result)), found.timed_out)
