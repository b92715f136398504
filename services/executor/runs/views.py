"""Runs in the shapes that others see."""

from __future__ import annotations

from typing import Any

from services.executor.runs.groups import WorkerGroups
from services.executor.runs.run_state import AttemptState, RunState, queue_ms
from shared.messages.run import Wait
from shared.questions.runs import AttemptView, RunView, WaitView
from shared.runs import BLOCKED
from shared.streams import DEFAULT_GROUP


def run_view(state: RunState, groups: WorkerGroups | None = None, slot_held_by: list[str] | None = None) -> RunView:
    """Return a run as the API shows it; an input that travels by reference is shown as its reference."""
    is_stranded = state.status == "queued" and groups is not None and groups.is_missing(state.group)
    missing = f"no executor serves the worker group {state.group or DEFAULT_GROUP!r}"
    shown: Any = state.input if state.input_ref is None else {"$ref": state.input_ref}
    blocked = state.status in BLOCKED
    # While a run waits for its next attempt, a slot or a worker, its own waits are not the reason.
    waits = state.waits if blocked and state.blocked_on not in {"retry", "concurrency", "worker"} else []
    return RunView(
        id=state.id,
        org=state.org,
        workflow=state.workflow,
        version=state.version,
        status=state.status,
        reason=missing if is_stranded else state.reason,
        blocked_on="worker" if state.status == "queued" else state.blocked_on if blocked else None,
        attempt=state.attempt,
        input=shown,
        result=state.result,
        error=state.error,
        requested_by=state.requested_by,
        delivery=state.delivery,
        requested_at=state.requested_at,
        started_at=state.started_at,
        finished_at=state.finished_at,
        queue_ms=queue_ms(state),
        duration_ms=state.duration_ms,
        usage=state.usage,
        sandbox=None if state.tier is None else {"tier": state.tier, "isolation": state.isolation},
        correlation_id=state.correlation_id,
        causation_id=state.causation_id,
        until=state.until if blocked else None,
        waits=[_wait_view(wait) for wait in waits],
        parent=state.parent,
        rerun_of=state.rerun_of,
        resumes=state.resumes,
        run_at=state.run_at,
        scheduled_for=state.scheduled_for,
        concurrency_key=state.slot.key if state.slot is not None else state.concurrency_key,
        slot_held_by=slot_held_by or [],
        hops=state.hops,
        input_ref=state.input_ref,
        result_ref=state.result_ref,
        result_bytes=state.result_bytes,
        fingerprint=state.fingerprint,
        erased=state.erased,
        group=state.group or DEFAULT_GROUP,
    )


def _wait_view(wait: Wait) -> WaitView:
    awaited = wait.awaited
    if awaited is None:
        return WaitView(wait.kind, wait.name, wait.until)
    return WaitView(wait.kind, wait.name, wait.until, awaited.where, awaited.values)


def attempt_view(attempt: AttemptState) -> AttemptView:
    """Return one claim on a run as the API shows it."""
    return AttemptView(
        attempt=attempt.attempt,
        status=attempt.status,
        executor=attempt.executor,
        sandbox={"tier": attempt.tier, "isolation": attempt.isolation},
        started_at=attempt.started_at,
        finished_at=attempt.finished_at,
        reason=attempt.reason,
        error=attempt.error,
        duration_ms=attempt.duration_ms,
        usage=attempt.usage,
    )
