"""What a run's messages add up to, and what of them the bus may forget."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.executor import domain
from services.executor.runs import run_state
from shared.envelope import new_id, rfc3339, seal
from shared.errors import Invalid
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


@pytest.mark.parametrize(
    "path", ["a.py", "flows/query.sql", "ca.pem", "templates/mail.html", "data/a.py", "x/data/y", "database", "data.json"]
)
def test_a_bundle_has_the_code_and_the_files_beside_it(path: str) -> None:
    assert domain.is_bundled(path)


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        "flows/.env",
        ".git/config",
        ".venv/lib/a.py",
        "node_modules/x/index.js",
        "a/__pycache__/b.pyc",
        "b.pyc",
        "c.pyo",
        "data/rows.csv",
    ],
)
def test_a_bundle_has_nothing_hidden_no_cache_and_nothing_that_runs_write(path: str) -> None:
    assert not domain.is_bundled(path)
    assert not path.startswith(domain.DATA) or domain.kept_from_runs(path) is None


def test_files_beyond_the_bounds_of_a_bundle_are_named_and_code_never_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain, "LARGEST_FILE", 100)
    monkeypatch.setattr(domain, "LARGEST_BUNDLE", 250)
    monkeypatch.setattr(domain, "MOST_FILES", 4)
    assert domain.beyond_bounds({"a.py": 50, "b": 100, "c": 100}) == {}
    assert list(domain.beyond_bounds({"a.py": 200, "b": 101, "c": 50})) == ["b"]
    assert list(domain.beyond_bounds({"a.py": 100, "b": 60, "c": 70, "d": 80})) == ["d"]
    assert list(domain.beyond_bounds({"z.py": 1, "b": 1, "c": 1, "d": 1, "e": 1})) == ["e"]
    assert domain.beyond_bounds({f"{number}.py": 200 for number in range(9)}) == {}
    assert "250 bytes" not in domain.beyond_bounds({"b": 101})["b"]
    assert "it has 101 bytes" in domain.beyond_bounds({"b": 101})["b"]


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("Flows/b.py", "flows/a.py"),
        ("flows/A.PY", "flows/a.py"),
        ("stra\u00dfe.txt", "STRASSE.txt"),
        ("caf\u00c9/x", "caf\u00e9/y"),
        ("a/B/c", "a/b/d"),
    ],
)
def test_a_name_that_some_file_systems_do_not_tell_from_another_is_refused_naming_that(path: str, there: str) -> None:
    with pytest.raises(Invalid, match="upper and lower case") as refused:
        domain.check_places({path: "1", there: "2", "other.txt": "3"}, [path])
    assert there in refused.value.detail
    domain.check_places({path: "1", "other.txt": "3"}, [path])


def test_files_in_many_folders_take_no_more_than_their_paths_and_one_in_too_many_is_refused() -> None:
    # A commit of so many is half a megabyte, and adds nothing to what is stored.
    deep = [f"data/{number}/{'a/' * 490}x" for number in range(400)]
    most = f"data/{'a/' * (domain.MOST_FOLDERS - 1)}x"
    tree = dict.fromkeys([*deep, most], "1")
    tracemalloc.start()
    found = domain.misplaced(tree, [*deep, most])
    _, taken = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 32 << 20
    assert set(found) == set(deep)
    assert "in 492 folders within each other, and 64 are the most" in found[deep[0]]


@given(st.dictionaries(st.lists(st.sampled_from("aAb"), min_size=1, max_size=3).map("/".join), st.just("1")))
def test_a_path_is_in_the_way_of_another_as_a_file_system_without_cases_has_it(tree: dict[str, str]) -> None:
    def places(path: str) -> list[str]:
        parts = path.split("/")
        return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]

    spelled = {place for path in tree for place in places(path)}
    wrong = {
        path
        for path in tree
        if any(folder in tree for folder in places(path)[:-1])
        or any(other.startswith(f"{path}/") for other in tree)
        or any(other != place and other.lower() == place.lower() for place in places(path) for other in spelled)
    }
    assert set(domain.misplaced(tree, list(tree))) == wrong


def test_an_artifact_is_written_by_its_own_run_and_is_in_no_bundle() -> None:
    run, other = "0199f2c4-8a3b-7c5d-9e1f-2a4b6c8d0e1f", "0199f2c4-8a3b-7c5d-9e1f-2a4b6c8d0e10"
    assert domain.kept_from_runs(f"artifacts/{run}/report.csv", run) is None
    assert domain.kept_from_runs(f"artifacts/{run}/report.csv", other)
    assert domain.kept_from_runs(f"artifacts/{run}/report.csv")
    assert domain.kept_from_runs(f"artifacts/{run}/code.py", run)
    assert domain.kept_from_runs("artifacts/report.csv", run)
    assert not domain.is_bundled(f"artifacts/{run}/report.csv")
    assert domain.is_bundled("artifacts/logo.svg")
