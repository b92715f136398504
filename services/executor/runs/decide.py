"""Decides the next step of a run: on its dispatch to a worker, when a wait may be over, and after a failed attempt.

Pure: decided from the run's state and the time that is given.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec

from services.executor.runs.asked import of_wait
from services.executor.runs.run_state import MatchedEvent, RunState, StepId
from shared.messages import Resolved, Wait
from shared.messages.catalog import Policy
from shared.runs import BLOCKED
from shared.values import YEAR

# A run that took so many workers with it is their killer.
MOST_LOST = 3
# Bytes of results with which a run is resumed: a message takes some more.
MOST_TOLD = 512 * 1024
Decision = Literal["claim", "nothing", "cancel", "expire", "delay", "poison"]


def on_dispatch(state: RunState, work_seq: int, now: datetime) -> Decision:
    """Return a worker's next step with a run that was dispatched to it by the message at `work_seq`.

    `nothing` where that message is obsolete: the run has ended, waits for something, or was dispatched anew.
    """
    if state.ended or work_seq < state.work_seq or (not state.held and state.status in BLOCKED):
        return "nothing"
    if state.status == "cancelling":
        return "cancel"
    if state.held and state.lost + 1 >= MOST_LOST:
        return "poison"
    if not state.attempt:
        if state.run_at is not None and not state.was_delayed and datetime.fromisoformat(state.run_at) > now:
            return "delay"
        if state.expires_at is not None and state.expires_at < now:
            return "expire"
    return "claim"


def resumption(state: RunState, steps: Container[StepId], children: Mapping[str, Any], now: datetime) -> list[Resolved] | None:
    """Return the waits of a run that are over, with which it is to be resumed; None while it is to go on waiting.

    `steps` holds the recorded ones, of the waits at least; `children` the outcomes of ended child runs, by id. A run that waits
    for a concurrency slot is not decided here.
    """
    if state.held or state.status not in BLOCKED:
        return None
    if state.blocked_on in {"retry", "concurrency", "worker"} or not state.waits:
        return [] if _is_due(state.until, now) and state.blocked_on != "concurrency" else None
    left = list(state.signals)
    over: list[Resolved] = []
    size = 0
    for wait in state.waits:
        if (wait.kind, wait.name, wait.ordinal) in steps:
            continue
        if size > MOST_TOLD:
            break  # the attempt that comes now asks for the others itself
        signal = next((one for one in left if one.name == wait.name), None) if wait.kind == "signal" else None
        if signal is not None:
            left.remove(signal)
            over.append(_over(wait, {"data": signal.data, "by": signal.by, "at": signal.at}))
        elif wait.kind == "event" and (event := matched_for(state, wait)) is not None:
            over.append(_over(wait, event.result))
        elif wait.kind == "ask" and (ask := of_wait(state.asks, wait.name, wait.ordinal)) is not None and ask.answer_id is not None:
            over.append(_over(wait, ask.result))
        elif wait.kind == "run" and wait.name in children:
            over.append(_over(wait, children[wait.name]))
        elif _is_due(wait.until, now):
            over.append(_over(wait, None, timed_out=wait.kind != "sleep"))
        else:
            continue
        size += len(msgspec.json.encode(over[-1].result))
    # Nothing that it waits for is over, but a time-out of its own is: the attempt that comes now goes by that.
    return over or ([] if _is_due(state.until, now) else None)


def matched_for(state: RunState, wait: Wait) -> MatchedEvent | None:
    """Return the event that has answered a wait of a run, and that no attempt knows of yet."""
    return next((one for one in state.matched if (one.name, one.ordinal) == (wait.name, wait.ordinal)), None)


def _over(wait: Wait, result: Any, *, timed_out: bool = False) -> Resolved:
    return Resolved(
        kind=wait.kind, name=wait.name, ordinal=wait.ordinal, position=wait.position, result=result, timed_out=timed_out
    )


def _is_due(until: str | None, now: datetime) -> bool:
    return until is not None and datetime.fromisoformat(until) <= now


BLOCKED_ON = {"sleep": "time", "signal": "signal", "ask": "answer", "run": "event", "event": "event"}


def waiting(waits: list[Wait], timer: str | None = None) -> tuple[str, str | None]:
    """Return the reason for which a run with these waits is blocked, and the latest time of its next change.

    `timer` is when the workflow's own nearest time-out is over.
    """
    times = [until for until in (*(wait.until for wait in waits), timer) if until is not None]
    return BLOCKED_ON[waits[0].kind], min(times, key=datetime.fromisoformat, default=None)


# An attempt that went over a limit would again; one that broke the platform's rules gets no second chance.
_RETRIED = frozenset({"error", "timeout", "oom", "worker_lost"})


def pause_before_retry(policy: Policy, retries: int, failures: int, reason: str, drawn: float) -> float | None:
    """Return after how many seconds a failed attempt is followed by another, None if it is not; `drawn` is from 0 to 1.

    Exponential back-off with full jitter (Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    """
    if failures >= retries or reason not in _RETRIED:
        return None
    return drawn * max(0.0, min(policy.retry_max_delay, policy.retry_delay * 2.0 ** min(failures, 64), YEAR))
