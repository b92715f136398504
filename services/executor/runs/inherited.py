"""The record of a run goes on in the run that resumes it: steps that are done, waits that are over, signals that none has taken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Protocol

import msgspec

from services.executor.runs.asked import AskState
from services.executor.runs.claim import Claim, fold, outlasting
from services.executor.runs.looks import Looks
from services.executor.runs.run_state import RecordedCall, RunState, Signal, StepId
from services.executor.runs.views import run_view
from services.executor.store import ExecutorStore
from shared.blobs import Blobs
from shared.bus import Bus
from shared.envelope import rfc3339, utc_now
from shared.errors import Conflict, Invalid, NotFound, Problem
from shared.messages import RunSignalled, RunStepCompleted
from shared.questions import MOST_ITEMS, PAGE_BYTES
from shared.questions.runs import GetRecord, RunRecord
from shared.runs import RESUMABLE

# Seconds after which a record that is there already is stored again, lest it go before the run that begins with it.
RENEWED = 24 * 3600.0
# Ends of attempts that had taken over all of it, or had nothing left to take over.
_WHOLE = frozenset({"waiting", "failed"})


class RecordedRun(msgspec.Struct, frozen=True):
    """What was recorded of a run, in order; the steps and the signals as messages of that run."""

    steps: list[RunStepCompleted] = []
    signals: list[Signal] = []


class RecordDeps(Protocol):
    """Dependencies of giving out a record."""

    bus: Bus
    looks: Looks
    results: Blobs
    store: ExecutorStore


class InheritDeps(Protocol):
    """Dependencies of taking it over."""

    results: Blobs


async def get_record(question: GetRecord, deps: RecordDeps) -> RunRecord:
    """Store what a run has recorded in the bucket `results`, and tell of it."""
    async with deps.looks.place():
        folded = await fold(deps.bus, question.id)
        state = None if folded is None else folded.state
        if state is None or not state.ended:
            state = await deps.store.run(question.org, question.id) or state
        if state is None or state.org != question.org:
            raise NotFound(f"there is no run {question.id[:80]}")
        _check(state)
        own = await _steps_of_rows(state, deps.store) if folded is None else folded.steps
        inherited = await read(state, deps.results)
        steps = {(one.kind, one.name, one.ordinal): one for one in inherited.steps}
        steps |= {step: _message(state.id, step, one) for step, one in own.items()}
        for event in state.matched:
            step = ("event", event.name, event.ordinal)
            steps[step] = _message(state.id, step, RecordedCall(event.result, event.position, attempt=state.attempt))
        for ask in state.asks:
            if ask.answer_id is not None:
                steps.setdefault(("ask", ask.name, ask.ordinal), _answered(state.id, ask))
        left = _without(steps.values(), question.forget)
        record = RecordedRun(left, [*state.signals, *inherited.signals[state.inherited_signals :]])
        ref = None
        if record.steps or record.signals:
            ref = (await deps.results.put(_parts(record), renew_after=RENEWED)).sha256
    return RunRecord(
        view=run_view(state),
        workflow_org=state.workflow_org,
        timeout=state.timeout,
        priority=state.priority,
        deadline=state.deadline,
        concurrency_key=state.concurrency_key,
        steps=len(record.steps),
        signals=len(record.signals),
        record_ref=ref,
    )


async def inherit(claim: Claim, steps: dict[StepId, RecordedCall], deps: InheritDeps) -> None:
    """Record for this run what was recorded of the run that it resumes, as far as no attempt before has, and add it to `steps`.

    Raises `NotFound` when the record is no longer kept, `Fenced`, `AlreadyEnded`; waits while the broker is away.
    """
    if any(one.status in _WHOLE for one in claim.state.attempts):
        return
    record = await outlasting(lambda: read(claim.state, deps.results), run=claim.run)
    for number, signal in enumerate(record.signals[claim.state.inherited_signals :], claim.state.inherited_signals):
        given = RunSignalled(run=claim.run, name=signal.name, signalled_by=signal.by, data=signal.data, inherited=True)
        await claim.inherit(given, f"inherited/{number}")
    for one in record.steps:
        step = (one.kind, one.name, one.ordinal)
        if step not in steps:
            await claim.step(msgspec.structs.replace(one, run=claim.run, attempt=claim.attempt, inherited=True))
            at = rfc3339(utc_now())
            steps[step] = RecordedCall(one.result, one.position, one.timed_out, one.given_up, at, claim.attempt)


async def read(state: RunState, results: Blobs) -> RecordedRun:
    """Return the record that a run begins with. Raises `NotFound` when it is no longer kept."""
    if state.record_ref is None:
        return RecordedRun()
    return msgspec.json.decode(await results.read(state.record_ref), type=RecordedRun)


def _check(state: RunState) -> None:
    if not state.ended:
        raise Conflict(f"the run {state.id} has not ended: it is {state.status}")
    if state.status not in RESUMABLE:
        raise Conflict(f"the run {state.id} has {state.status}: there is nothing to go on with; `rerun` starts it anew")
    if state.erased:
        raise Conflict(f"what the run {state.id} was given and did was erased: start another one")


def _without(steps: Iterable[RunStepCompleted], forget: list[str]) -> list[RunStepCompleted]:
    found = list(steps)
    unknown = sorted({*forget} - {one.name for one in found})
    if unknown:
        detail = f"the run has recorded nothing of the name {unknown[0]!r}"
        raise Invalid(detail, errors=tuple(Problem("forget", f"nothing is recorded of {name!r}") for name in unknown))
    return [one for one in found if one.name not in forget]


async def _steps_of_rows(state: RunState, store: ExecutorStore) -> dict[StepId, RecordedCall]:
    """Return the steps of a run that the bus has no longer."""
    found: dict[StepId, RecordedCall] = {}
    place = (0, -1)
    while page := await store.steps(state.id, place, MOST_ITEMS, PAGE_BYTES, results=True):
        for one in page:
            found[one.kind, one.name, one.ordinal] = RecordedCall(one.result, one.position, one.timed_out, one.given_up)
        place = page[-1].place
    return found


def _message(run: str, step: StepId, one: RecordedCall) -> RunStepCompleted:
    kind, name, ordinal = step
    return RunStepCompleted(
        run=run,
        attempt=one.attempt,
        kind=kind,
        name=name,
        ordinal=ordinal,
        position=one.position,
        result=one.result,
        timed_out=one.timed_out,
        given_up=one.given_up,
    )


def _answered(run: str, ask: AskState) -> RunStepCompleted:
    """Return what people have answered, whether the run came to take it or not: they are not asked again."""
    return RunStepCompleted(run=run, attempt=0, kind="ask", name=ask.name, ordinal=ask.ordinal, result=ask.result)


async def _parts(record: RecordedRun) -> AsyncIterator[bytes]:
    yield msgspec.json.encode(record)
