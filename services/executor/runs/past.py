"""Past attempts as the next one sees them: calls that are done, when, and the waits they ended with. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, TypedDict

from services.executor.runs.run_state import AttemptState, RecordedCall, RunState, StepId
from services.executor.sandbox.interface import DONE, GIVEN_UP, SINCE, CompletedCall

_WAITS = frozenset({"sleep", "signal", "ask", "run", "event"})


class Past(TypedDict):
    """Fields of a `Job`."""

    recorded: list[CompletedCall]
    waiting: list[StepId]
    age: float


def past(state: RunState, steps: Mapping[StepId, RecordedCall], now: datetime) -> Past:
    """Return the past of a run, `state` being the one before the attempt that is to come.

    The attempt that ended last in good order, waiting or failed, has all its lines: its repetition prints none. One that was
    lost may lack some. After a failure the clock begins anew: it is no later part of the same attempt.
    """
    last = next((one for one in reversed(state.attempts) if one.status in {"waiting", "failed"}), None)
    known = 0 if last is None else last.attempt
    recorded = []
    for (kind, name, ordinal), one in steps.items():
        how: Literal[0, 1, 2] = GIVEN_UP if one.given_up else DONE if one.attempt <= known else SINCE
        ago = 0.0 if one.at is None else _since(one.at, now)
        recorded.append(CompletedCall(kind, name, ordinal, one.position, ago, how))
    waiting: list[StepId] = []
    if last is not None and last.status == "waiting":
        waiting = [(one.kind, one.name, one.ordinal) for one in state.waits if (one.kind, one.name, one.ordinal) not in steps]
        waiting += [(one.kind, one.name, one.ordinal) for one in recorded if one.how == SINCE and one.kind in _WAITS]
    return Past(recorded=recorded, waiting=waiting, age=_age(state.attempts, now))


def _age(attempts: list[AttemptState], now: datetime) -> float:
    """Return how long ago the first of the attempts began that the coming one continues."""
    first: AttemptState | None = None
    for one in reversed(attempts):
        if one.status == "waiting":
            first = one
        elif one.status not in {"lost", "released", "running"}:
            break
    return 0.0 if first is None else _since(first.started_at, now)


def _since(at: str, now: datetime) -> float:
    return max(0.0, (now - datetime.fromisoformat(at)).total_seconds())
