"""A run's records as people see them: steps that are done and waits that are over. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from services.executor.runs import run_state
from services.executor.runs.run_state import RunState
from shared.envelope import Envelope, rfc3339
from shared.errors import Malformed, Problem
from shared.messages import Message, RunStepCompleted
from shared.questions import MOST_ITEMS, PAGE_BYTES, Page
from shared.questions.runs import StepList, StepView

# Bytes of the fields shown of one beside its name and its result.
_AROUND = 250

# (sequence of the message, part of it).
Place = tuple[int, int]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One of them; `at` is RFC 3339, `bytes` the size of the result as JSON."""

    run: str
    place: Place
    kind: str
    name: str
    ordinal: int
    position: int | None
    attempt: int
    at: str
    timed_out: bool
    given_up: bool
    bytes: int
    result: Any


def steps_of(state: RunState, envelope: Envelope, message: Message, sequence: int) -> Iterable[Step]:
    """Return the steps that a message of a run records; `state` is the run's after it. Inherited ones are of no attempt."""
    attempt = 0 if isinstance(message, RunStepCompleted) and message.inherited else state.attempt
    for part, ((kind, name, ordinal), done) in enumerate(run_state.recorded(message)):
        yield Step(
            run=state.id,
            place=(sequence, part),
            kind=kind,
            name=name,
            ordinal=ordinal,
            position=done.position,
            attempt=attempt,
            at=rfc3339(envelope.time),
            timed_out=done.timed_out,
            given_up=done.given_up,
            bytes=len(msgspec.json.encode(done.result)),
            result=done.result,
        )


def place_of(cursor: str | None) -> Place:
    """Return the place that a page begins after. Raises `Malformed`."""
    if cursor is None:
        return (0, -1)
    sequence, _, part = cursor.partition(".")
    if not (sequence.isascii() and sequence.isdigit() and part.isascii() and part.isdigit() and len(cursor) < 30):
        raise Malformed("this cursor was not given out by this list", errors=(Problem("cursor", "malformed"),))
    return int(sequence), int(part)


def page_of(steps: Iterable[Step], page: Page, *, results: bool) -> StepList:
    """Return a page of steps that come in their order, from after its cursor on."""
    after, limit = place_of(page.cursor), page.within(MOST_ITEMS)
    items: list[StepView] = []
    last, size = after, 0
    for step in steps:
        if step.place <= after:
            continue
        size += size_of([step], results=results)
        if len(items) == limit or (items and size > PAGE_BYTES):
            return StepList(items, f"{last[0]}.{last[1]}")
        items.append(_view(step, results=results))
        last = step.place
    return StepList(items, None)


def size_of(steps: Iterable[Step], *, results: bool) -> int:
    """Return about how many bytes of JSON they are shown as."""
    return sum(_AROUND + len(msgspec.json.encode(step.name)) + (step.bytes if results else 0) for step in steps)


def _view(step: Step, *, results: bool) -> StepView:
    return StepView(
        kind=step.kind,
        name=step.name,
        ordinal=step.ordinal,
        position=step.position,
        attempt=step.attempt,
        completed_at=step.at,
        timed_out=step.timed_out,
        given_up=step.given_up,
        bytes=step.bytes,
        result=step.result if results else None,
    )
