"""The life of a run. `run.requested` and `run.cancel_requested` are said by whoever asks, the rest by the executor."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.messages.declaration import Message, message

REQUESTERS = ("gateway", "events", "executor")


class RunError(msgspec.Struct, frozen=True):
    """How an attempt failed; `traceback` holds the author's frames only."""

    type: str
    message: str
    traceback: str = ""


class RunUsage(msgspec.Struct, frozen=True):
    """What an attempt used, measured by the supervisor."""

    cpu_ms: float = 0.0
    max_rss_mb: float = 0.0


@message("run.requested", key="run", by=REQUESTERS, suffix="priority", creates=True)
class RunRequested(Message, frozen=True, kw_only=True):
    """Somebody has asked for a run of `workflow` at exactly `version`; creation, so expected to be the run's first message.

    An input of more than 256 KiB as JSON is in the bucket `bodies` under `input_ref`. `received_at` is when the webhook of
    `delivery` came in: a request that comes long after it may be one that was carried out and purged already.
    """

    run: str
    workflow: str
    version: str
    requested_by: str
    timeout: float
    input: Any = None
    input_ref: str | None = None
    priority: str = "normal"
    delivery: str | None = None
    received_at: str | None = None
    subscription: str | None = None
    rerun_of: str | None = None


@message("run.started", key="run", by="executor")
class RunStarted(Message, frozen=True, kw_only=True):
    """An executor has claimed the run; `attempt` counts claims from 1. Its envelope id is new for every claim."""

    run: str
    attempt: int
    executor: str
    tier: str


@message("run.step_completed", key="run", by="executor")
class RunStepCompleted(Message, frozen=True, kw_only=True):
    """A durable step of the run has its result; no later attempt runs it again. `ordinal` counts the uses of `name`."""

    run: str
    attempt: int
    name: str
    ordinal: int
    result: Any


@message("run.cancel_requested", key="run", by=REQUESTERS)
class RunCancelRequested(Message, frozen=True, kw_only=True):
    """Somebody wants the run to stop."""

    run: str
    requested_by: str


@message("run.succeeded", key="run", by="executor")
class RunSucceeded(Message, frozen=True, kw_only=True):
    """The run ended with a result."""

    run: str
    attempt: int
    result: Any
    duration_ms: float
    usage: RunUsage


@message("run.failed", key="run", by="executor")
class RunFailed(Message, frozen=True, kw_only=True):
    """The run ended with an error of the author's code, or over a limit: see `reason`."""

    run: str
    attempt: int
    reason: str
    error: RunError
    duration_ms: float
    usage: RunUsage


@message("run.timed_out", key="run", by="executor")
class RunTimedOut(Message, frozen=True, kw_only=True):
    """The run's attempt took longer than its time-out and was killed."""

    run: str
    attempt: int
    reason: str
    error: RunError
    duration_ms: float
    usage: RunUsage


@message("run.crashed", key="run", by="executor")
class RunCrashed(Message, frozen=True, kw_only=True):
    """The run's child ended without an outcome of its own."""

    run: str
    attempt: int
    reason: str
    error: RunError
    duration_ms: float
    usage: RunUsage


@message("run.cancelled", key="run", by="executor")
class RunCancelled(Message, frozen=True, kw_only=True):
    """The run was stopped because somebody asked for it."""

    run: str
    attempt: int
    duration_ms: float = 0.0
    usage: RunUsage = RunUsage()
