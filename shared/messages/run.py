"""The life of a run. Any service may publish `run.requested` and `run.cancel_requested`, the executor the rest."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.messages.declaration import Message, message

REQUESTERS = ("gateway", "events", "executor")


class RunError(msgspec.Struct, frozen=True):
    """The error of a failed attempt; `traceback` holds the author's frames only."""

    type: str
    message: str
    traceback: str = ""


class RunUsage(msgspec.Struct, frozen=True):
    """Resources used by an attempt, measured by the supervisor."""

    cpu_ms: float = 0.0
    max_rss_mb: float = 0.0


class ConcurrencySlot(msgspec.Struct, frozen=True):
    """A slot among the `limit` runs with the same key that may go on at a time.

    The policy decides about a run that finds all of them taken: it waits (`queue`), it fails (`reject`), or it waits while those
    before it, running or waiting, are asked to stop (`cancel_older`).
    """

    key: str
    limit: int = 1
    policy: str = "queue"


class AwaitedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The event that a run waits for: of the source with the id `source`, of a type that fits the pattern `type`.

    Those count that were accepted from `since` (RFC 3339) on, and of which the CEL expression `where`, if there is one, is true;
    its variables are `event` and `values`. Where it demands that the event has a value at a path, `path` is that, and `value` the
    value as JSON in one canonical form: only events with it there can answer. Both are empty where nothing of the kind is demanded.
    """

    source: str
    source_name: str
    type: str
    since: str
    where: str | None = None
    values: dict[str, Any] = msgspec.field(default_factory=dict)
    path: str = ""
    value: str = ""


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a run waits for. `kind`: `sleep`, `signal`, `ask`, `run` (the end of the child run `name`), or `event`.

    It is the `ordinal`th wait of its kind and name in the run, and the call at `position` among all steps and waits of an attempt.
    `until` (RFC 3339) is when the waiting is over by itself.
    """

    kind: str
    name: str
    ordinal: int
    position: int | None
    until: str | None = None
    awaited: AwaitedEvent | None = None


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a wait: with a result, or by the clock."""

    kind: str
    name: str
    ordinal: int
    position: int | None
    result: Any = None
    timed_out: bool = False


@message("run.requested", key="run", by=REQUESTERS, suffix="priority", ending="group", creates=True)
class RunRequested(Message, frozen=True, kw_only=True):
    """A run of `workflow` at exactly `version` was requested; creation, so expected to be the run's first message.

    An input of more than 256 KiB as JSON is in the bucket `bodies` under `input_ref`. `received_at` is when the webhook of
    `delivery` came in, or the time of a schedule: a request that comes long after it may be one that was carried out and purged
    already. The run begins not before `run_at`, and expires when it has not begun `deadline` seconds after that, or after the
    request. `workflow_org` has the workspace that the workflow is from. `concurrency_key` takes the place of the workflow's own;
    with a `concurrency_policy` one run of that key goes on at a time. `scheduled_for` is the time of the schedule that it comes
    of, RFC 3339. `parent` is the run that asked for it. `hops` counts the
    runs before this one, each of which asked for the next, or emitted an event that started it. `fingerprint` distinguishes the
    request from others with the same idempotency key. With `resumes` it goes on where that run ended: what was recorded of it is in
    the bucket `results` under `record_ref`, if anything was. `group` is the worker group to carry it out, None for the default one.
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
    run_at: str | None = None
    deadline: float | None = None
    concurrency_key: str | None = None
    concurrency_policy: str | None = None
    workflow_org: str | None = None
    parent: str | None = None
    hops: int = 0
    fingerprint: str | None = None
    scheduled_for: str | None = None
    resumes: str | None = None
    record_ref: str | None = None
    group: str | None = None


@message("run.started", key="run", by="executor")
class RunStarted(Message, frozen=True, kw_only=True):
    """An executor has claimed the run; `attempt` counts claims from 1. Its envelope id is new for every claim.

    `tier` is the sandbox's, `isolation` whether a process of it is for this run alone (`run`) or may have served others of the
    same organization and workflow before (`workflow`).
    """

    run: str
    attempt: int
    executor: str
    tier: str
    slot: ConcurrencySlot | None = None
    isolation: str = "run"


@message("run.step_completed", key="run", by="executor")
class RunStepCompleted(Message, frozen=True, kw_only=True):
    """A durable step of the run has its result; no later attempt runs it again. `ordinal` counts the uses of `name`.

    `position` counts all steps and waits in the order in which an attempt calls them. `kind` is `step`, or `start` for a child run
    that was requested, whose id is the result, or that of a wait that was over at once, or that the workflow has `given_up`: no
    attempt learns how that would have ended. An `inherited` one was done in the run that this one resumes.
    """

    run: str
    attempt: int
    name: str
    ordinal: int
    result: Any
    kind: str = "step"
    position: int | None = None
    timed_out: bool = False
    given_up: bool = False
    inherited: bool = False


@message("run.waiting", key="run", by="executor")
class RunWaiting(Message, frozen=True, kw_only=True):
    """The run occupies no sandbox until it is resumed. `blocked_on`: `time retry concurrency worker signal answer event`.

    After a failed attempt (`retry`) `reason` and `error` describe the failure.
    """

    run: str
    attempt: int
    blocked_on: str
    until: str | None = None
    waits: list[Wait] = msgspec.field(default_factory=list)
    slot: ConcurrencySlot | None = None
    reason: str | None = None
    error: RunError | None = None
    duration_ms: float = 0.0
    usage: RunUsage = RunUsage()


@message("run.resumed", key="run", by="executor", suffix="priority", ending="group")
class RunResumed(Message, frozen=True, kw_only=True):
    """The run is to be worked on again: its wait is over, or its worker gave it back."""

    run: str
    priority: str
    resolved: list[Resolved] = msgspec.field(default_factory=list)
    group: str | None = None


@message("run.signalled", key="run", by="executor")
class RunSignalled(Message, frozen=True, kw_only=True):
    """A wait of the run for the signal `name` was answered, also before the run waits; or that of the run that it resumes."""

    run: str
    name: str
    signalled_by: str
    data: Any = None
    inherited: bool = False


@message("run.event_matched", key="run", by="executor")
class RunEventMatched(Message, frozen=True, kw_only=True):
    """An event answers a wait of the run for one: the first that does, and it answers no other wait of this run.

    `result` is the event as the workflow gets it. It is the event with the id `event`, the `number`th of the delivery.
    """

    run: str
    name: str
    ordinal: int
    position: int | None
    event: str
    delivery: str
    number: int
    result: Any


class AskedQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """A question to people. `form` is the JSON Schema of the object that an approval comes with, None: of none.

    `to` names those who are asked: roles, users, or names that those know who pass the question on. People are reminded every
    `remind` seconds, and those of `escalate_to` are asked as well after `escalate`.
    """

    prompt: str
    form: dict[str, Any] | None = None
    to: list[str] = msgspec.field(default_factory=list)
    remind: float | None = None
    escalate: float | None = None
    escalate_to: list[str] = msgspec.field(default_factory=list)


@message("run.asked", key="run", by="executor")
class RunAsked(Message, frozen=True, kw_only=True):
    """A run asks people: the `ordinal`th question of this name in the run, answerable until then (RFC 3339)."""

    run: str
    attempt: int
    approval: str
    name: str
    ordinal: int
    question: AskedQuestion
    until: str | None = None


@message("run.reminded", key="run", by="executor")
class RunReminded(Message, frozen=True, kw_only=True):
    """A question of the run has no answer yet: this is reminder `number`, or, where it `escalated`, others are asked as well."""

    run: str
    approval: str
    prompt: str
    to: list[str]
    number: int = 0
    escalated: bool = False
    until: str | None = None


@message("run.answered", key="run", by="executor")
class RunAnswered(Message, frozen=True, kw_only=True):
    """Somebody has answered a question of the run, for good. `via`: `link`, `session` or `key`; `remote` is the address.

    `prompt`, `to` and `until` are those of the question; answers of an earlier version lack them.
    """

    run: str
    approval: str
    name: str
    ordinal: int
    approved: bool
    answered_by: str
    via: str
    data: Any = None
    comment: str = ""
    remote: str | None = None
    user_agent: str = ""
    prompt: str = ""
    to: list[str] = msgspec.field(default_factory=list)
    until: str | None = None


@message("run.cancel_requested", key="run", by=REQUESTERS)
class RunCancelRequested(Message, frozen=True, kw_only=True):
    """The run is asked to stop."""

    run: str
    requested_by: str


@message("run.succeeded", key="run", by="executor")
class RunSucceeded(Message, frozen=True, kw_only=True):
    """The run ended with a result; one of more than 256 KiB as JSON is in the bucket `results` under `result_ref`.

    The end of a run that had a concurrency slot names its key, that of a child run its parent: so runs that wait for either resume.
    With `run.requested` it is all that is shown of the run: `started_at` is when its first attempt began (RFC 3339), `tier` and
    `isolation` are those of its last. Ends of an earlier version lack them.
    """

    run: str
    attempt: int
    result: Any
    duration_ms: float
    usage: RunUsage
    concurrency_key: str | None = None
    parent: str | None = None
    result_ref: str | None = None
    result_bytes: int | None = None
    started_at: str | None = None
    tier: str | None = None
    isolation: str | None = None


class RunFailure(Message, frozen=True, kw_only=True):
    """The fields of the three ends with an error; none of them is another."""

    run: str
    attempt: int
    reason: str
    error: RunError
    duration_ms: float
    usage: RunUsage
    concurrency_key: str | None = None
    parent: str | None = None


@message("run.failed", key="run", by="executor")
class RunFailed(RunFailure, frozen=True, kw_only=True):
    """The run ended with an error of the author's code, or over a limit: see `reason`."""


@message("run.timed_out", key="run", by="executor")
class RunTimedOut(RunFailure, frozen=True, kw_only=True):
    """The run's attempt took longer than its time-out and was killed."""


@message("run.crashed", key="run", by="executor")
class RunCrashed(RunFailure, frozen=True, kw_only=True):
    """The run's child ended without an outcome of its own."""


@message("run.cancelled", key="run", by="executor")
class RunCancelled(Message, frozen=True, kw_only=True):
    """The run was stopped on request."""

    run: str
    attempt: int
    duration_ms: float = 0.0
    usage: RunUsage = RunUsage()
    concurrency_key: str | None = None
    parent: str | None = None


@message("run.expired", key="run", by="executor")
class RunExpired(Message, frozen=True, kw_only=True):
    """The run had not begun by its deadline, and will not."""

    run: str
    error: RunError
    attempt: int = 0
    reason: str = "deadline"
    duration_ms: float = 0.0
    usage: RunUsage = RunUsage()
    concurrency_key: str | None = None
    parent: str | None = None
