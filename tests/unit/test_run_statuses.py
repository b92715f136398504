"""The life of a run is told once: every message and every status has its row, and whoever lists them lists these."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from millrace.cli import why
from services.logs.wording import message_of
from shared.messages import DECLARATIONS, RunCancelRequested, RunStarted, RunWaiting
from shared.runs import EFFECTS, END_TYPES, ENDED, STATUSES, UNENDED, RunEnd, StatusOfRun, status_after, status_of

ROOT = Path(__file__).parents[2]
OF_RUNS = {type_: cls for type_, (declared, cls) in DECLARATIONS.items() if declared.noun == "run"}


def test_every_message_of_a_run_says_what_it_does_to_its_status() -> None:
    assert EFFECTS.keys() == set(OF_RUNS.values())


def test_every_status_is_what_some_message_leads_to() -> None:
    assert {effect.status for effect in EFFECTS.values()} | {"delayed"} == {None, *STATUSES}
    assert status_of(RunWaiting(run="r", attempt=0, blocked_on="time")) == "delayed"
    assert status_of(RunWaiting(run="r", attempt=1, blocked_on="time")) == "waiting"


def test_a_run_has_ended_by_exactly_the_messages_that_are_its_ends() -> None:
    assert {OF_RUNS[type_] for type_ in END_TYPES} == set(get_args(RunEnd))
    assert {f"run.{status}" for status in ENDED} == END_TYPES
    assert (*UNENDED, *ENDED) == tuple(STATUSES) == get_args(StatusOfRun)


@pytest.mark.parametrize("type_", sorted(OF_RUNS))
def test_every_message_of_a_run_has_a_line_of_its_own(type_: str) -> None:
    data = json.loads((ROOT / "tests" / "golden" / f"{type_}.json").read_text())["data"]
    line = message_of(type_, "run-1", data)
    assert line != message_of("run.unheard_of", "run-1", data).replace("unheard_of", type_.partition(".")[2])
    assert "{" not in line


def test_the_lines_of_a_run_say_what_it_waits_for_and_what_ended_that() -> None:
    waiting = {"run": "r", "attempt": 1, "blocked_on": "signal", "until": None, "reason": None, "error": None}
    assert message_of("run.waiting", "r", waiting) == "waiting for signal"
    failed = {"blocked_on": "retry", "until": "2026-01-02T03:04:05Z", "reason": "error", "error": {"type": "E", "message": "no"}}
    assert message_of("run.waiting", "r", failed) == "waiting for retry until 2026-01-02T03:04:05Z after error: E: no"
    assert message_of("run.resumed", "r", {"resolved": []}) == "resumed"
    assert message_of("run.resumed", "r", {"resolved": [{"kind": "signal", "name": "go"}]}) == "resumed after signal go"
    late = {"reason": "deadline", "error": {"type": "Expired", "message": "too late"}}
    assert message_of("run.expired", "r", late) == "deadline: Expired: too late"


def test_a_run_that_is_to_stop_only_ends() -> None:
    assert status_after("running", status_of(RunCancelRequested(run="r", requested_by="x"))) == "cancelling"
    assert status_after("cancelling", status_of(RunStarted(run="r", attempt=1, executor="e", tier="A"))) == "cancelling"
    assert [status_after("cancelling", ended) for ended in ENDED] == list(ENDED)
    assert {status_after(ended, status) for ended in ENDED for status in UNENDED} == set(ENDED)


def test_the_docs_list_these_statuses_and_what_each_means() -> None:
    section = (ROOT / "docs" / "runs.md").read_text().partition("| `status` | the run |")[2].partition("\n| `blocked_on`")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE))
    assert list(told) == list(STATUSES)
    assert [name for name, status in STATUSES.items() if not told[name].startswith(status.meaning)] == []


def test_the_command_colours_the_ends_of_runs_as_the_archive_does() -> None:
    assert {name: status.level for name, status in STATUSES.items() if status.level != "info"} == why._LEVELS
