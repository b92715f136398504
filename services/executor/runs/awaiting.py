"""Waits for events: what a run may ask for, and the event that answers it, once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Protocol

import msgspec

from services.executor.runs.claim import outlasting
from services.executor.runs.decide import matched_for
from services.executor.runs.durable import Durable
from services.executor.runs.looks import Looks
from services.executor.runs.run_state import RunState
from services.executor.sandbox.interface import StepRecord
from shared import aggregate
from shared.bus import Bus
from shared.envelope import Sealed, derived_id, rfc3339, utc_now
from shared.errors import Invalid, TooLarge
from shared.messages import AwaitedEvent, RunEventMatched
from shared.questions.events import PrepareEventWait
from shared.questions.runs import AnswerWait, WaitAnswered
from shared.values import Expression, Name

# An event that came so long before a wait began answers it: what a call of an API sets off may be quicker than the next line.
LOOK_BACK = timedelta(minutes=10)
# Bytes as JSON of the values of one wait: they are part of the run's state as long as it waits.
LARGEST_VALUES = 16 * 1024


class EventQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An event as a run asks for it."""

    source: Name
    type: Name
    where: Expression | None = None
    values: dict[str, Any] = msgspec.field(default_factory=dict)


class AwaitingDeps(Protocol):
    """Dependencies of the answer to a wait."""

    bus: Bus
    looks: Looks


async def wait(
    durable: Durable,
    bus: Bus,
    org: str,
    run: str,
    name: str,
    ordinal: int,
    position: int | None,
    seconds: float | None,
    asked: msgspec.Raw,
) -> StepRecord | None:
    """Return the event, or that it did not come in time; None while the run is to wait for it. Raises what does not fit."""
    known = durable.get(("event", name, ordinal))
    if known is not None:
        return known
    query = _query(asked)
    before = durable.awaited(name, ordinal)
    if before is not None and _is_same(before, query):
        return await durable.wait("event", name, ordinal, position, seconds, before)
    question = PrepareEventWait(org=org, source=query.source, type=query.type, where=query.where, values=query.values)
    since = rfc3339(utc_now() - LOOK_BACK)
    found = await outlasting(lambda: bus.ask(question), run=run, wait=name)
    event = AwaitedEvent(
        source=found.source,
        source_name=found.source_name,
        type=query.type,
        since=since,
        where=query.where,
        values=query.values,
        path=found.path,
        value=found.value,
    )
    return await durable.wait("event", name, ordinal, position, seconds, event)


async def answer_wait(command: AnswerWait, deps: AwaitingDeps) -> WaitAnswered:
    """Append to the run's messages that an event answers a wait, unless the wait is over or another one had the event."""
    told = WaitAnswered(is_taken=False, is_open=False)

    async def read() -> tuple[RunState | None, int]:
        state = await deps.looks.state(command.run)
        return (None, 0) if state is None or state.org != command.org else (state, state.last_seq)

    async def matched(state: RunState | None) -> Sealed[RunEventMatched] | None:
        nonlocal told
        told = WaitAnswered(is_taken=False, is_open=False)
        if state is None or state.ended or state.status == "cancelling":
            return None
        wait = next(
            (one for one in state.waits if (one.kind, one.name, one.ordinal) == ("event", command.name, command.ordinal)), None
        )
        if wait is None:
            return None
        answer = matched_for(state, wait)
        if answer is not None:
            told = WaitAnswered(is_taken=answer.event == command.event, is_open=False)
            return None
        if command.event in state.events_taken:
            told = WaitAnswered(is_taken=False, is_open=True)
            return None
        told = WaitAnswered(is_taken=True, is_open=False)
        message = RunEventMatched(
            run=command.run,
            name=command.name,
            ordinal=command.ordinal,
            position=wait.position,
            event=command.event,
            delivery=command.delivery,
            number=command.number,
            result=command.result,
        )
        id_ = derived_id(command.id, "run.event_matched")
        return deps.bus.seal(message, org=command.org, correlation=state.correlation_id, id=id_)

    async with deps.looks.alone(command.run):
        await aggregate.advance(deps.bus, read, matched)
    return told


def _query(asked: msgspec.Raw) -> EventQuery:
    try:
        query = msgspec.json.decode(asked, type=EventQuery)
    except msgspec.ValidationError as error:
        raise Invalid(f"this is no event to wait for: {error}") from error
    size = len(msgspec.json.encode(query.values))
    if size > LARGEST_VALUES:
        raise TooLarge(f"the values of a wait have {size} bytes as JSON; at most {LARGEST_VALUES} are kept")
    return query


def _is_same(before: AwaitedEvent, query: EventQuery) -> bool:
    asked = (query.type, query.where, query.values)
    return query.source in {before.source, before.source_name} and (before.type, before.where, before.values) == asked
