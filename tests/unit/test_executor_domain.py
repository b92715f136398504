"""What a run's messages add up to, and what of them the bus may forget."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from services.executor import domain
from services.executor.runs import run_state
from shared.envelope import new_id, rfc3339, seal
from shared.messages import RunRequested, RunStarted, RunSucceeded, RunUsage
from shared.questions import Position

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_a_stream_is_purged_up_to_the_slowest_reader_of_this_very_stream() -> None:
    assert domain.passed_by_all("a", [Position("a", 7), Position("a", 5)]) == 5
    assert domain.passed_by_all("a", [Position("a", 7), Position("b", 9)]) == 0
    assert domain.passed_by_all("a", [Position("a", 7), Position("", 0)]) == 0
    assert domain.passed_by_all("a", []) == 0


def test_what_comes_after_the_end_of_a_run_moves_its_sequence_and_nothing_else() -> None:
    def folded(state: run_state.RunState | None, message: Any, sequence: int) -> run_state.RunState | None:
        envelope = seal(message, service="executor", org="default", now=NOW, id=new_id()).envelope
        return run_state.evolve(state, envelope, message, sequence)

    request = RunRequested(run="r", workflow="w", version="v", requested_by="t", timeout=1.0)
    state = folded(None, request, 1)
    state = folded(state, RunStarted(run="r", attempt=1, executor="e", tier="none"), 2)
    done = folded(state, RunSucceeded(run="r", attempt=1, result=1, duration_ms=1.0, usage=RunUsage()), 3)
    assert done is not None
    after = folded(done, request, 9)
    assert after == msgspec.structs.replace(done, last_seq=9)
    assert folded(after, request, 9) is after


def test_a_request_is_doubted_long_before_its_first_copy_may_be_purged() -> None:
    assert not domain.doubtful(None, NOW)
    assert not domain.doubtful(rfc3339(NOW - domain.DOUBTFUL_AFTER), NOW)
    assert domain.doubtful(rfc3339(NOW - domain.DOUBTFUL_AFTER - timedelta(seconds=1)), NOW)
    assert domain.DOUBTFUL_AFTER < domain.LEAST_KEPT


@pytest.mark.parametrize("path", ["data/x", "data/deep/er/x.json", "data/py", "data/a.py.txt", "data/requirements.txt.old"])
def test_a_run_may_write_below_data(path: str) -> None:
    assert domain.kept_from_runs(path) is None


@pytest.mark.parametrize(
    "path", ["x", "data", "Data/x", "database", "workflows/a.py", "data/a.py", "data/a.pyi", "data/b/requirements.txt", "x/data/y"]
)
def test_a_run_may_write_nothing_else_and_no_code(path: str) -> None:
    assert domain.kept_from_runs(path)
