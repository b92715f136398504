"""Dispatch of a run to this worker, up to the claim: the run begins here, or waits, or ends without having begun."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import msgspec
import structlog

from services.executor.runs import decide, end_messages, run_state, traced
from services.executor.runs.claim import AlreadyEnded, Claim, fold
from services.executor.runs.concurrency import ConcurrencySlots
from services.executor.runs.concurrency_key import slot_of
from services.executor.runs.newest import keep_newest
from services.executor.runs.run_state import RecordedCall, RunState, StepId
from services.executor.store import ExecutorStore
from services.executor.workspaces.bundles import Bundles
from shared import aggregate
from shared.blobs import Blobs
from shared.bus import Bus
from shared.envelope import Envelope, caused_id, utc_now
from shared.errors import Conflict, Invalid, NotFound
from shared.expressions.pool import Expressions
from shared.messages import (
    Message,
    RunCancelled,
    RunStarted,
    RunWaiting,
    TimerSet,
)
from shared.projection import Shards
from shared.runs import RunEnd

# A claim that conflicts is folded and tried again; after so many times another worker is winning.
TRIES = 5
_log = structlog.get_logger()


class DispatchDeps(Protocol):
    """Dependencies of a dispatch."""

    bus: Bus
    bundles: Bundles
    bodies: Blobs
    store: ExecutorStore
    concurrency: ConcurrencySlots
    expressions: Expressions
    rows: Shards
    name: str


class DispatchedRun(msgspec.Struct, frozen=True):
    """A run that the work message `envelope` at `sequence` dispatches, as far as it is known."""

    envelope: Envelope
    sequence: int
    state: RunState
    steps: dict[StepId, RecordedCall]
    isolation: str = "run"


async def take(
    dispatch: DispatchedRun, deps: DispatchDeps, tier: str, *, park: str | None = None
) -> tuple[Claim, dict[StepId, RecordedCall]]:
    """Claim the run; returns the claim and its recorded steps. With `park` it is made to wait until then instead.

    Raises `AlreadyEnded` when there is nothing left to do but to acknowledge: also after the run was made to wait, or was ended.
    Raises `Conflict` when others win, `Unavailable`.
    """
    for _ in range(TRIES):
        try:
            return await _take(dispatch, deps, tier, park)
        except Conflict:
            folded = await fold(deps.bus, dispatch.state.id)
            if folded is None:
                raise AlreadyEnded from None
            dispatch = msgspec.structs.replace(dispatch, state=folded.state, steps=folded.steps)
    raise Conflict(f"run {dispatch.state.id} is claimed by others")


async def _take(
    dispatch: DispatchedRun, deps: DispatchDeps, tier: str, park: str | None
) -> tuple[Claim, dict[StepId, RecordedCall]]:
    state = dispatch.state
    now = utc_now()
    match decide.on_dispatch(state, dispatch.sequence, now):
        case "nothing" if state.status == "waiting" and state.blocked_on == "concurrency":
            # An earlier delivery may have been interrupted when the run had begun to wait.
            await keep_newest(state, deps)
        case "nothing":
            pass
        case "cancel":
            await _append(dispatch, deps, RunCancelled(run=state.id, attempt=state.attempt))
        case "expire":
            await _append(dispatch, deps, end_messages.expired(state))
        case "poison":
            await _append(dispatch, deps, end_messages.poison(state))
        case "delay":
            await _delay(dispatch, deps)
        case "claim" if park is not None:
            if state.held:
                raise Conflict(f"run {state.id} was claimed meanwhile")
            await _append(dispatch, deps, RunWaiting(run=state.id, attempt=state.attempt, blocked_on="worker", until=park))
        case "claim":
            try:
                dispatch = await _declared(dispatch, deps)
            except Invalid as error:
                await _append(dispatch, deps, end_messages.failed(state.id, state.attempt, "ConcurrencyKey", error.detail))
                raise AlreadyEnded from error
            if dispatch.state.slot is None or await deps.concurrency.enter(state.id, dispatch.state.slot):
                stopped = await keep_newest(dispatch.state, deps, has_slot=True)
                if stopped is None:
                    return await _claim(dispatch, deps, tier)
                dispatch = msgspec.structs.replace(dispatch, state=msgspec.structs.replace(dispatch.state, last_seq=stopped))
                await _append(dispatch, deps, RunCancelled(run=state.id, attempt=state.attempt))
            else:
                await _queue(dispatch, deps)
    raise AlreadyEnded


async def _declared(dispatch: DispatchedRun, deps: DispatchDeps) -> DispatchedRun:
    """Read the workflow's declaration: the isolation of runs, and this run's concurrency slot if that is not known yet.

    Raises `Invalid`, `Unavailable`.
    """
    state = dispatch.state
    try:
        found = (await deps.bundles.get(state.version)).workflow(state.workflow)
        dispatch = msgspec.structs.replace(dispatch, isolation=found.policy.isolation)
        if state.slot is not None or (state.concurrency_key is None and found.concurrency is None):
            return dispatch
        # An older version may have stored a policy that is none.
        slot = run_state.bounded_slot(await slot_of(found, state, await given_to(state, deps.bodies), deps.expressions))
    except NotFound:
        return dispatch  # there is nothing to run, which the attempt will report
    return msgspec.structs.replace(dispatch, state=msgspec.structs.replace(state, slot=slot))


async def given_to(state: RunState, bodies: Blobs) -> Any:
    """Return the run's input, wherever it is kept. Raises `NotFound`, `Unavailable`."""
    return state.input if state.input_ref is None else msgspec.json.decode(await bodies.read(state.input_ref))


async def _claim(dispatch: DispatchedRun, deps: DispatchDeps, tier: str) -> tuple[Claim, dict[StepId, RecordedCall]]:
    message = RunStarted(
        run=dispatch.state.id,
        attempt=dispatch.state.attempt + 1,
        executor=deps.name,
        tier=tier,
        slot=dispatch.state.slot,
        isolation=dispatch.isolation,
    )
    span = traced.attempt(dispatch.envelope, dispatch.state)
    # A fresh id per claim: attempt 2 must not be swallowed as a duplicate of attempt 1.
    started = deps.bus.seal(message, org=dispatch.state.org, cause=traced.below(span, dispatch.envelope))
    since = asyncio.get_running_loop().time()
    ack = await aggregate.append(deps.bus.client, deps.bus.journal, started, dispatch.state.last_seq, since=dispatch.state.last_seq)
    claimed = traced.below(span, started.envelope)
    return Claim(deps.bus, dispatch.state, claimed, message, ack.sequence, since, span), dispatch.steps


async def _delay(dispatch: DispatchedRun, deps: DispatchDeps) -> None:
    until = dispatch.state.run_at
    assert until is not None  # noqa: S101 - the decision says so
    # The timer first: a run that waits for one that was never set would wait for the next sweep.
    await set_timer(deps.bus, dispatch.state.org, dispatch.envelope, dispatch.state.id, until)
    await _append(dispatch, deps, RunWaiting(run=dispatch.state.id, attempt=0, blocked_on="time", until=until))


async def _queue(dispatch: DispatchedRun, deps: DispatchDeps) -> None:
    """Apply the policy to a run that finds no free concurrency slot."""
    state = dispatch.state
    slot = state.slot
    assert slot is not None  # noqa: S101 - the decision says so
    if slot.policy == "reject":
        holder = ", ".join(await deps.concurrency.holders(slot.key)) or "another run"
        detail = f"{slot.limit} with the key {slot.key!r} at a time, and {holder} has the slot"
        await _append(dispatch, deps, end_messages.failed(state.id, state.attempt, "ConcurrencyLimit", detail, "limit"))
        return
    waiting = RunWaiting(run=state.id, attempt=state.attempt, blocked_on="concurrency", slot=slot)
    sequence = await _append(dispatch, deps, waiting)
    await keep_newest(msgspec.structs.replace(state, last_seq=sequence), deps)


async def _append(dispatch: DispatchedRun, deps: DispatchDeps, message: Message) -> int:
    """Append the run's next message instead of a claim; returns its sequence."""
    if isinstance(message, RunEnd):
        message = run_state.labelled(message, dispatch.state)
    id_ = caused_id(dispatch.envelope.id, message, "unclaimed")
    sealed = deps.bus.seal(message, org=dispatch.state.org, cause=dispatch.envelope, id=id_)
    last = dispatch.state.last_seq
    return (await aggregate.append(deps.bus.client, deps.bus.journal, sealed, last, since=last)).sequence


async def set_timer(bus: Bus, org: str, cause: Envelope, run: str, until: str) -> None:
    """Schedule the time at which a run is to be looked at again. Raises `Unavailable`."""
    message = TimerSet(key=run, owner="executor", at=until)
    await bus.publish(bus.seal(message, org=org, cause=cause, id=caused_id(cause.id, message, until)))
