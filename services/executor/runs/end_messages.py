"""Messages by which an attempt, or a run that cannot begin, ends: made of what became of it. They record nothing."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from services.executor.environments.environments import NotHad
from services.executor.runs import decide
from services.executor.runs.claim import Outcome
from services.executor.runs.run_state import RunState
from services.executor.sandbox import interface
from shared.envelope import rfc3339, utc_now
from shared.messages import (
    RunCancelled,
    RunCrashed,
    RunError,
    RunExpired,
    RunFailed,
    RunSucceeded,
    RunTimedOut,
    RunUsage,
    RunWaiting,
    Wait,
)
from shared.streams import INLINE_BYTES
from shared.values import later

# Seconds after which a run comes back at the latest whose packages could not be had; half of it at the earliest.
PACKAGES_AGAIN = 60.0


def of_outcome(run: str, attempt: int, outcome: interface.Outcome) -> Outcome:
    """Return the message of a sandbox's outcome. A result over 256 KiB that did not come in parts is a failure."""
    usage = RunUsage(cpu_ms=outcome.usage.cpu_ms, max_rss_mb=outcome.usage.max_rss_mb)
    common: dict[str, Any] = {"run": run, "attempt": attempt, "duration_ms": outcome.duration_ms, "usage": usage}
    if outcome.kept is not None:
        return RunSucceeded(**common, result=None, result_ref=outcome.kept.sha256, result_bytes=outcome.kept.size)
    if outcome.status == "succeeded":
        raw = bytes(outcome.result or b"null")
        if len(raw) > INLINE_BYTES:
            detail = f"the result has {len(raw)} bytes as JSON; at most {INLINE_BYTES} travel in one part"
            return RunFailed(**common, reason="limit", error=RunError("ResultTooLarge", detail))
        return RunSucceeded(**common, result=msgspec.Raw(raw))
    if outcome.status == "cancelled":
        return RunCancelled(**common)
    failure = outcome.error or interface.Failure("Unknown", "the child said nothing about its end")
    error = RunError(failure.type, failure.message, failure.traceback)
    reason = outcome.reason or "error"
    if outcome.status == "timed_out":
        return RunTimedOut(**common, reason=reason, error=error)
    if outcome.status == "crashed":
        return RunCrashed(**common, reason=reason, error=error)
    return RunFailed(**common, reason=reason, error=error)


def waiting(run: str, attempt: int, waits: list[Wait], outcome: interface.Outcome) -> Outcome:
    """Return the message that a run waits for its open waits."""
    usage = RunUsage(cpu_ms=outcome.usage.cpu_ms, max_rss_mb=outcome.usage.max_rss_mb)
    common: dict[str, Any] = {"run": run, "attempt": attempt, "duration_ms": outcome.duration_ms, "usage": usage}
    if not waits:
        error = RunError("FrameError", "it said that it waits, and had not asked for anything")
        return RunCrashed(**common, reason="sandbox", error=error)
    timer = None if outcome.seconds is None else rfc3339(later(utc_now(), outcome.seconds))
    blocked_on, until = decide.waiting(waits, timer)
    return RunWaiting(**common, blocked_on=blocked_on, until=until, waits=waits)


def without_packages(run: str, attempt: int, error: NotHad) -> RunWaiting:
    """Return the message that a run waits until its packages may be had again; that is none of its own failed attempts."""
    drawn = random.uniform(0.5, 1.0)  # noqa: S311 - it spreads load, and is no secret
    until = rfc3339(later(utc_now(), PACKAGES_AGAIN * drawn))
    return RunWaiting(
        run=run, attempt=attempt, blocked_on="time", until=until, reason="error", error=RunError("PackagesMissing", str(error))
    )


def retried(end: RunFailed | RunTimedOut | RunCrashed, pause: float) -> RunWaiting:
    """Return the message that a run waits for its next attempt, so many seconds."""
    return RunWaiting(
        run=end.run,
        attempt=end.attempt,
        blocked_on="retry",
        until=rfc3339(later(utc_now(), pause)),
        reason=end.reason,
        error=end.error,
        duration_ms=end.duration_ms,
        usage=end.usage,
    )


def failed(run: str, attempt: int, kind: str, detail: str, reason: str = "error") -> RunFailed:
    """Return the end of a run that cannot begin."""
    return RunFailed(run=run, attempt=attempt, reason=reason, error=RunError(kind, detail), duration_ms=0.0, usage=RunUsage())


def expired(state: RunState) -> RunExpired:
    """Return the end of a run that did not begin in time."""
    since = state.run_at or state.requested_at
    waited_for = state.blocked_on or "worker"
    detail = f"it was to begin within {state.deadline:g} s of {since}, and still waited for {waited_for}"
    return RunExpired(run=state.id, attempt=state.attempt, error=RunError("Expired", detail))


def poison(state: RunState) -> RunCrashed:
    """Return the end of a run whose attempts end without a word."""
    lost = state.lost + 1
    detail = f"{lost} attempts in a row ended without a word: the worker died with them, so that no more is tried"
    error = RunError("Poison", detail)
    return RunCrashed(run=state.id, attempt=state.attempt, reason="poison", error=error, duration_ms=0.0, usage=RunUsage())
