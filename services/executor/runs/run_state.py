"""The state of a run, folded from its messages; `decide` derives the next step from it. Pure.

    requested --> queued ----------------------------> running --> succeeded, failed, timed_out, crashed
                    | ^                                  |
                    v | resumed                          v
                  delayed, waiting <------------------ waiting

A request to stop makes a run `cancelling`, from where it only ends. A run is *held* between a claim (`run.started`) and the
claimant's message about its end; a claim on a held run means that the one before was lost.

Messages of every writer are read leniently: an invalid time becomes the time of its message, a duration ends at a year.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from services.executor.runs import asked
from services.executor.runs.asked import AskState
from shared.envelope import Envelope, rfc3339
from shared.messages import (
    ConcurrencySlot,
    Message,
    Resolved,
    RunAsked,
    RunError,
    RunEventMatched,
    RunRequested,
    RunResumed,
    RunSignalled,
    RunStarted,
    RunStepCompleted,
    RunSucceeded,
    RunUsage,
    RunWaiting,
    Wait,
)
from shared.runs import ENDED, RunEnd, queued_ms, status_after, status_of
from shared.values import YEAR, later, moment_of, storable

# Attempts that a run shows, of those that it had: the first shows how it began, the last ones how it goes.
SHOWN_ATTEMPTS = 50
# Signals that no wait has taken yet; more are refused.
MOST_SIGNALS = 100

# Runs that go on at a time, of those with one key.
MOST_AT_A_TIME = 1000

# (kind, name, ordinal): a step or a wait.
StepId = tuple[str, str, int]


class AttemptState(msgspec.Struct, frozen=True, kw_only=True):
    """One claim on a run. `status`: `running`, `lost`, `released`, `waiting`, or how it ended."""

    attempt: int
    executor: str
    tier: str
    started_at: str
    isolation: str = "run"
    status: str = "running"
    finished_at: str | None = None
    reason: str | None = None
    error: RunError | None = None
    duration_ms: float | None = None
    usage: RunUsage | None = None


class Signal(msgspec.Struct, frozen=True):
    """An answer that was given to a run. `at` is RFC 3339."""

    name: str
    data: Any
    by: str
    at: str


class MatchedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to the `ordinal`th wait for `name`: the event with this id, as the workflow gets it. `at` is RFC 3339."""

    name: str
    ordinal: int
    position: int | None
    event: str
    result: Any
    at: str


class RecordedCall(msgspec.Struct, frozen=True):
    """A step that is done, or a wait that is over; `position` among all of the attempt that did it, where it is known.

    A wait that the workflow itself has `given_up` is over for it, however it would have ended. `at` (RFC 3339) is when it was
    recorded, `attempt` the first attempt that knows of it.
    """

    result: Any
    position: int | None = None
    timed_out: bool = False
    given_up: bool = False
    at: str | None = None
    attempt: int = 0


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """The state that a run's messages up to `last_seq` add up to.

    `claim` is the envelope id of its last `run.started`, `work_seq` the sequence of the message that dispatches it to workers.
    `failures` counts failed attempts that were followed by another, `lost` claims of which nothing more was heard. `erased`:
    what it was given and gave back was. `inherited_signals` of the run that it resumes have been taken over. `matched` are the
    events of which no attempt knows yet, `events_taken` the ids of all that have answered one of its waits.
    """

    id: str
    org: str
    workflow: str
    version: str
    status: str
    timeout: float
    priority: str
    requested_by: str
    requested_at: str
    correlation_id: str
    causation_id: str | None
    last_seq: int
    input: Any = None
    input_ref: str | None = None
    delivery: str | None = None
    rerun_of: str | None = None
    resumes: str | None = None
    record_ref: str | None = None
    inherited_signals: int = 0
    fingerprint: str | None = None
    parent: str | None = None
    hops: int = 0
    run_at: str | None = None
    scheduled_for: str | None = None
    deadline: float | None = None
    concurrency_key: str | None = None
    concurrency_policy: str | None = None
    workflow_org: str | None = None
    group: str | None = None
    slot: ConcurrencySlot | None = None
    work_seq: int = 0
    held: bool = False
    was_delayed: bool = False
    failures: int = 0
    lost: int = 0
    attempt: int = 0
    attempts: list[AttemptState] = []
    claim: str | None = None
    tier: str | None = None
    isolation: str = "run"
    started_at: str | None = None
    finished_at: str | None = None
    reason: str | None = None
    blocked_on: str | None = None
    until: str | None = None
    waits: list[Wait] = []
    signals: list[Signal] = []
    matched: list[MatchedEvent] = []
    events_taken: list[str] = []
    asks: list[AskState] = []
    result: Any = None
    result_ref: str | None = None
    result_bytes: int | None = None
    error: RunError | None = None
    duration_ms: float | None = None
    usage: RunUsage | None = None
    erased: bool = False

    @property
    def ended(self) -> bool:
        """Return whether the run has its one end."""
        return self.status in ENDED

    @property
    def expires_at(self) -> datetime | None:
        """Return when the run may no longer begin, if there is such a time."""
        if self.deadline is None:
            return None
        return later(datetime.fromisoformat(self.run_at or self.requested_at), self.deadline)


def resumed(state: RunState, resolved: list[Resolved] | None = None) -> RunResumed:
    """Return the message that has the same workers go on with a run that had it at first."""
    return RunResumed(run=state.id, priority=state.priority, group=state.group, resolved=resolved or [])


def evolve(state: RunState | None, envelope: Envelope, message: Message, sequence: int) -> RunState | None:
    """Return the state after one more message; messages that were folded already change nothing.

    Those after the end move `last_seq` only: no writer appends them, but a request whose first copy was purged may come again.
    None while the run was never requested: such messages cannot be made sense of.
    """
    if state is not None and state.ended and sequence > state.last_seq:
        return msgspec.structs.replace(state, last_seq=sequence)
    if isinstance(message, RunRequested):
        return state or _requested(envelope, message, sequence)
    if state is None or sequence <= state.last_seq or state.ended:
        return state
    at = rfc3339(envelope.time)
    after = msgspec.structs.replace(state, last_seq=sequence, status=status_after(state.status, status_of(message)))
    if state.asks or isinstance(message, RunAsked):
        after = msgspec.structs.replace(after, asks=asked.after(state.asks, envelope, message))
    match message:
        case RunStarted():
            return _started(after, envelope.id, message, at)
        case RunWaiting():
            return _waiting(after, message, at)
        case RunResumed():
            return msgspec.structs.replace(
                _closed(after, at, "released") if state.held else after,
                held=False,
                lost=0 if state.held else state.lost,
                blocked_on=None,
                until=None,
                # Those that are still to end keep their times, whenever they are asked for again.
                waits=_left(state.waits, message.resolved),
                work_seq=sequence,
                signals=_without_heard(state.signals, message.resolved),
                matched=_without_told(state.matched, message.resolved),
            )
        case RunStepCompleted() if message.kind == "signal":
            unheard = message.timed_out or message.given_up
            heard = Resolved(kind="signal", name=message.name, ordinal=message.ordinal, position=0, timed_out=unheard)
            return msgspec.structs.replace(after, signals=_without_heard(state.signals, [heard]))
        case RunStepCompleted() if message.kind == "event":
            over = [Resolved(kind="event", name=message.name, ordinal=message.ordinal, position=message.position)]
            taken = state.events_taken
            if isinstance(message.result, dict) and isinstance(id_ := message.result.get("id"), str) and id_ not in taken:
                taken = [*taken, id_]  # of the run that this one resumes
            left = _left(state.waits, over)
            return msgspec.structs.replace(after, waits=left, matched=_without_told(state.matched, over), events_taken=taken)
        case RunEventMatched():
            told = MatchedEvent(
                name=message.name,
                ordinal=message.ordinal,
                position=message.position,
                event=message.event,
                result=message.result,
                at=at,
            )
            taken = [*state.events_taken, message.event]
            return msgspec.structs.replace(after, matched=[*state.matched, told], events_taken=taken)
        case RunSignalled():
            given = Signal(message.name, message.data, message.signalled_by, at)
            inherited = state.inherited_signals + message.inherited
            return msgspec.structs.replace(after, signals=[*state.signals, given], inherited_signals=inherited)
        case _ if isinstance(message, RunEnd):
            return _ended(after, message, at)
    return after


def recorded(message: Message, at: str | None = None, attempt: int = 0) -> Iterable[tuple[StepId, RecordedCall]]:
    """Return the steps and the waits that a message records as done or over; `attempt` is the run's before it."""
    if isinstance(message, RunStepCompleted):
        done = RecordedCall(message.result, message.position, message.timed_out, message.given_up, at, message.attempt)
        yield (message.kind, message.name, message.ordinal), done
    elif isinstance(message, RunResumed):
        for one in message.resolved:
            yield (
                (one.kind, one.name, one.ordinal),
                RecordedCall(one.result, one.position, one.timed_out, at=at, attempt=attempt + 1),
            )


def labelled(message: RunEnd, state: RunState) -> RunEnd:
    """Return the end of a run in the form that waiting runs need; `state` is the run's before it."""
    told: dict[str, Any] = {"concurrency_key": state.slot and state.slot.key, "parent": state.parent}
    if isinstance(message, RunSucceeded):
        told |= {"started_at": state.started_at, "tier": state.tier, "isolation": state.isolation}
    return msgspec.structs.replace(message, **told)


def _requested(envelope: Envelope, message: RunRequested, sequence: int) -> RunState:
    return RunState(
        id=message.run,
        org=envelope.org,
        workflow=message.workflow,
        version=message.version,
        status="queued",
        timeout=_bounded(message.timeout),
        priority=message.priority,
        requested_by=message.requested_by,
        requested_at=rfc3339(envelope.time),
        correlation_id=envelope.correlationid,
        causation_id=envelope.causationid,
        last_seq=sequence,
        work_seq=sequence,
        input=message.input,
        input_ref=message.input_ref,
        delivery=message.delivery,
        rerun_of=message.rerun_of,
        resumes=message.resumes,
        record_ref=message.record_ref,
        fingerprint=message.fingerprint,
        parent=message.parent,
        hops=message.hops,
        run_at=_time(message.run_at, otherwise=None),
        scheduled_for=_time(message.scheduled_for, otherwise=None),
        deadline=None if message.deadline is None else _bounded(message.deadline),
        concurrency_key=None if message.concurrency_key is None else storable(message.concurrency_key),
        concurrency_policy=message.concurrency_policy,
        workflow_org=message.workflow_org,
        group=message.group,
    )


def _started(state: RunState, claim: str, message: RunStarted, at: str) -> RunState:
    begun = AttemptState(
        attempt=message.attempt, executor=message.executor, tier=message.tier, isolation=message.isolation, started_at=at
    )
    before = _closed(state, at, "lost", reason="worker_lost") if state.held else state
    attempts = [*before.attempts, begun]
    if len(attempts) > SHOWN_ATTEMPTS:
        attempts = [attempts[0], *attempts[2:]]
    return msgspec.structs.replace(
        before,
        held=True,
        lost=state.lost + 1 if state.held else state.lost,
        attempt=message.attempt,
        attempts=attempts,
        slot=bounded_slot(message.slot) or state.slot,
        claim=claim,
        tier=message.tier,
        isolation=message.isolation,
        started_at=state.started_at or at,
    )


def _waiting(state: RunState, message: RunWaiting, at: str) -> RunState:
    is_delayed = status_of(message) == "delayed"
    closed = _closed(
        state,
        at,
        "failed" if message.blocked_on == "retry" else "waiting",
        reason=message.reason,
        error=message.error,
        duration_ms=message.duration_ms,
        usage=message.usage,
    )
    return msgspec.structs.replace(
        closed if state.held else state,
        held=False,
        was_delayed=state.was_delayed or is_delayed,
        lost=0,
        failures=state.failures + (message.blocked_on == "retry"),
        blocked_on=message.blocked_on,
        until=_time(message.until, otherwise=at),
        waits=[msgspec.structs.replace(wait, until=_time(wait.until, otherwise=at)) for wait in message.waits] or state.waits,
        slot=bounded_slot(message.slot) or state.slot,
    )


def _ended(state: RunState, message: RunEnd, at: str) -> RunState:
    reason, error = getattr(message, "reason", None), getattr(message, "error", None)
    closed = _closed(state, at, state.status, reason=reason, error=error, duration_ms=message.duration_ms, usage=message.usage)
    return msgspec.structs.replace(
        closed if state.held else state,
        held=False,
        finished_at=at,
        reason=reason,
        error=error,
        blocked_on=None,
        until=None,
        waits=[],
        # A run that resumes it may have use for them.
        signals=[] if isinstance(message, RunSucceeded) else state.signals,
        matched=[] if isinstance(message, RunSucceeded) else state.matched,
        events_taken=[],
        asks=asked.ended(state.asks),
        duration_ms=message.duration_ms,
        usage=message.usage,
        result=getattr(message, "result", None),
        result_ref=getattr(message, "result_ref", None),
        result_bytes=getattr(message, "result_bytes", None),
    )


def _closed(state: RunState, at: str, status: str, **told: Any) -> RunState:
    """Return the state with its last attempt at an end."""
    if not state.attempts:
        return state
    *before, last = state.attempts
    return msgspec.structs.replace(state, attempts=[*before, msgspec.structs.replace(last, status=status, finished_at=at, **told)])


def _time(text: str | None, *, otherwise: str | None) -> str | None:
    """Return a valid time: the one given, or `otherwise` where it is none."""
    if text is None:
        return None
    try:
        moment_of(text)
    except (ValueError, OverflowError):
        return otherwise
    return text


def _bounded(seconds: float) -> float:
    return max(0.0, min(seconds, YEAR))


def bounded_slot(slot: ConcurrencySlot | None) -> ConcurrencySlot | None:
    """Return a slot with a key that can be stored and a limit that can be reckoned with."""
    return None if slot is None else ConcurrencySlot(storable(slot.key), max(1, min(slot.limit, MOST_AT_A_TIME)), slot.policy)


def _left(waits: list[Wait], resolved: Iterable[Resolved]) -> list[Wait]:
    over = {(one.kind, one.name, one.ordinal) for one in resolved}
    return [wait for wait in waits if (wait.kind, wait.name, wait.ordinal) not in over]


def _without_heard(signals: list[Signal], resolved: Iterable[Resolved]) -> list[Signal]:
    """Return the signals that are left when those are taken away, first come first, that ended a wait."""
    left = list(signals)
    for one in resolved:
        if one.kind == "signal" and not one.timed_out:
            found = next((signal for signal in left if signal.name == one.name), None)
            if found is not None:
                left.remove(found)
    return left


def _without_told(matched: list[MatchedEvent], resolved: Iterable[Resolved]) -> list[MatchedEvent]:
    """Return the events that are left when those are taken away of which an attempt will know."""
    over = {(one.name, one.ordinal) for one in resolved if one.kind == "event"}
    return [one for one in matched if (one.name, one.ordinal) not in over] if over else matched


def outcome_for_parent(child: RunState) -> dict[str, Any]:
    """Return the end of a child run as its parent gets it."""
    found: dict[str, Any] = {"id": child.id, "status": child.status, "reason": child.reason}
    if child.error is not None:
        found["error"] = {"type": child.error.type, "message": child.error.message}
    if child.status == "succeeded":
        found["result"] = child.result if child.result_ref is None else {"$ref": child.result_ref, "bytes": child.result_bytes}
    return found


def queue_ms(state: RunState) -> float | None:
    """Return how long the run waited before its first attempt, from when it could have begun, in milliseconds."""
    return None if state.started_at is None else queued_ms(state.run_at or state.requested_at, state.started_at)
