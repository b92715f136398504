"""Names of worker groups, and who serves them."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.permissions import service_permissions
from millrace import workflow
from millrace._bounds import group as named
from services.executor.config import MOST_GROUPS, read
from services.executor.runs.groups import SILENT, Serving, WorkerGroups
from shared.config import Environment
from shared.messages import RunRequested, RunResumed, declaration_of
from shared.streams import DEFAULT_GROUP, GROUP, PRIORITIES, WORK, work_of_runs


class Heard:
    """A message of another executor."""

    def __init__(self, executor: str, *groups: str) -> None:
        self.data = msgspec.msgpack.encode(Serving(executor, list(groups)))


class Clock:
    """A clock that stands still."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.text(max_size=40) | st.from_regex(GROUP))
def test_the_names_that_an_author_may_give_are_those_that_a_subject_may_have(name: str) -> None:
    if name == DEFAULT_GROUP:
        assert named(name) is None
    elif re.match(GROUP, name):
        assert named(name) == name
    else:
        with pytest.raises(ValueError, match="group"):
            named(name)


def test_a_declaration_with_a_wrong_group_is_refused_where_it_is_written() -> None:
    with pytest.raises(ValueError, match="group has lower-case letters"):

        @workflow(group="GPU")
        def heavy() -> None: ...


def test_a_run_is_dispatched_to_the_consumers_of_its_group_only() -> None:
    asked: dict[str, Any] = {"run": "r", "workflow": "w", "version": "v", "requested_by": "t", "timeout": 1.0}
    of = declaration_of(RunRequested)
    assert of.subject(RunRequested(**asked)) == "run.r.requested.normal"
    assert of.subject(RunRequested(**asked, group="gpu", priority="low")) == "run.r.requested.low.gpu"
    assert declaration_of(RunResumed).subject(RunResumed(run="r", priority="high", group="gpu")) == "run.r.resumed.high.gpu"
    assert [work.name for work in work_of_runs("gpu")] == [f"executor-runs-{priority}-gpu" for priority in PRIORITIES]
    assert work_of_runs("gpu")[1].subjects == ("run.*.requested.normal.gpu", "run.*.resumed.normal.gpu")
    assert set(work_of_runs()) <= set(WORK)
    assert work_of_runs()[1].subjects == ("run.*.requested.normal", "run.*.resumed.normal")


def test_whoever_may_ask_for_runs_may_ask_for_those_of_any_group() -> None:
    assert all("run.*.requested.>" in service_permissions(service)["publish"] for service in ("gateway", "events", "executor"))


@pytest.mark.parametrize(("given_", "groups"), [("", ("default",)), ("gpu", ("gpu",)), ("gpu, default,gpu", ("gpu", "default"))])
def test_an_executor_serves_the_groups_that_it_is_given(given_: str, groups: tuple[str, ...]) -> None:
    assert read(Environment({"MILLRACE_WORKER_GROUPS": given_})).groups == groups


@pytest.mark.parametrize("given_", ["GPU", "a.b", "gpu,>", "-x", ",".join(f"g{n}" for n in range(MOST_GROUPS + 1))])
def test_a_name_that_is_none_is_refused_by_its_variable(given_: str) -> None:
    environment = Environment({"MILLRACE_WORKER_GROUPS": given_})
    read(environment)
    assert "MILLRACE_WORKER_GROUPS" in [one.path for one in environment._problems]


def test_a_group_is_missing_once_all_others_have_had_time_to_tell() -> None:
    clock = Clock()
    groups = WorkerGroups(None, "mine", ("default",), None, now=clock)  # type: ignore[arg-type]
    assert not groups.is_missing("gpu"), "it is not known yet"
    clock.now = SILENT + 1
    assert groups.is_missing("gpu")
    groups._hear(Heard("other", "gpu", "default"))  # type: ignore[arg-type]
    assert not groups.is_missing("gpu")
    assert groups.executors == {"gpu": 1, "default": 1}
    groups._hear(Heard("other"))  # type: ignore[arg-type]
    assert groups.is_missing("gpu"), "it is to stop"
    groups._hear(Heard("other", "gpu"))  # type: ignore[arg-type]
    clock.now += SILENT + 1
    assert groups.is_missing("gpu"), "nothing was heard of it"
