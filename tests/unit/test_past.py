"""What an attempt is told of the ones before it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from services.executor.runs.past import past
from services.executor.runs.run_state import AttemptState, RecordedCall, RunState
from services.executor.sandbox.interface import DONE, GIVEN_UP, SINCE, CompletedCall
from shared.envelope import rfc3339
from shared.messages import Wait

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def ago(seconds: float) -> str:
    return rfc3339(NOW - timedelta(seconds=seconds))


def state(*statuses: str, waits: list[Wait] | None = None) -> RunState:
    attempts = [
        AttemptState(attempt=number, executor="e", tier="A", started_at=ago(100 - 10 * number), status=status)
        for number, status in enumerate(statuses, start=1)
    ]
    return RunState(
        id="r",
        org="o",
        workflow="w",
        version="v",
        status="queued",
        timeout=1,
        priority="normal",
        requested_by="t",
        requested_at=ago(100),
        correlation_id="c",
        causation_id=None,
        last_seq=1,
        attempt=len(attempts),
        attempts=attempts,
        waits=waits or [],
    )


def test_what_was_done_since_the_last_attempt_in_good_order_is_told_apart() -> None:
    steps = {
        ("step", "a", 0): RecordedCall(1, 0, at=ago(60), attempt=1),
        ("signal", "x", 0): RecordedCall(None, 1, given_up=True, at=ago(50), attempt=1),
        ("sleep", "sleep", 0): RecordedCall(None, 2, at=ago(1), attempt=2),
    }
    left = Wait(kind="signal", name="y", ordinal=0, position=3)
    found = past(state("waiting", waits=[left]), steps, NOW)
    assert found["recorded"] == [
        CompletedCall("step", "a", 0, 0, 60.0, DONE),
        CompletedCall("signal", "x", 0, 1, 50.0, GIVEN_UP),
        CompletedCall("sleep", "sleep", 0, 2, 1.0, SINCE),
    ]
    assert found["waiting"] == [("signal", "y", 0), ("sleep", "sleep", 0)]
    assert found["age"] == 90


def test_the_clock_goes_on_over_waits_and_lost_attempts_and_begins_anew_after_a_failure() -> None:
    assert past(state("waiting", "lost", "waiting", "running"), {}, NOW)["age"] == 90
    assert past(state("waiting", "failed", "waiting"), {}, NOW)["age"] == 70
    assert past(state("waiting", "failed"), {}, NOW)["age"] == past(state("lost"), {}, NOW)["age"] == 0


def test_an_attempt_after_a_failure_comes_back_to_no_wait_and_one_after_a_loss_knows_no_lines() -> None:
    left = Wait(kind="signal", name="y", ordinal=0, position=3)
    assert past(state("waiting", "failed", waits=[left]), {}, NOW)["waiting"] == []
    steps = {("step", "a", 0): RecordedCall(1, 0, at=ago(60), attempt=1)}
    assert past(state("lost"), steps, NOW)["recorded"] == [CompletedCall("step", "a", 0, 0, 60.0, SINCE)]
