"""`millrace.testing` gives what a run gives, and leaves the process as it was."""

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from millrace import (
    ChildFailed,
    Connection,
    LockTimeout,
    OrderChanged,
    Refused,
    VersionConflict,
    artifacts,
    config,
    connections,
    data_provider,
    files,
    locks,
    log,
    runs,
    sleep,
    state,
    step,
    testing,
    wait_for,
    workflow,
)
from millrace._declare import REGISTRY
from millrace._runtime import channel
from services.executor.state import checked_version, increased
from services.gateway.options import options_of
from shared.errors import CodeFailed, MillraceError
from shared.questions.state import StateView


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    before = len(REGISTRY)
    yield
    del REGISTRY[before:]
    assert channel.current is None


def test_a_workflow_runs_with_what_the_test_gives_and_tells_what_it_did() -> None:
    @workflow
    async def main(event: dict[str, Any], at: datetime) -> dict[str, Any]:
        halo = await connections.aget("halopsa")
        log.info("looked", by=halo.name)
        return {"sum": await step("add", sum, event["data"]), "at": at, "pair": (1, 2)}

    outcome = testing.run(main, {"event": {"data": [1, 2]}, "at": datetime(2026, 1, 31, tzinfo=UTC)}, connections={"halopsa": "t"})
    assert outcome.value() == {"sum": 3, "at": "2026-01-31T00:00:00Z", "pair": [1, 2]}
    assert (outcome.status, outcome.reason, outcome.error) == ("succeeded", None, None)
    assert outcome.lines == [testing.Line("info", "looked", {"by": "halopsa"})]
    assert outcome.steps == {"add": 3}


def test_what_a_step_recorded_is_not_done_again() -> None:
    done: list[int] = []
    fail = True

    @workflow
    async def main() -> list[int]:
        found = [await step("one", done.append, number) or number for number in (1, 2)]
        if fail:
            raise OSError("later")
        return found

    first = testing.run(main)
    assert isinstance(first.exception, OSError)
    assert first.steps == {"one": None, ("one", 1): None}
    fail = False
    assert testing.run(main, steps=first.steps).value() == [1, 2]
    assert done == [1, 2]


def test_names_of_steps_are_counted_anew_in_each_attempt() -> None:
    @workflow
    def main() -> str:
        return step.sync("one", str, 5)

    assert testing.run(main).steps == testing.run(main).steps == {"one": "5"}
    assert testing.run(main, steps={"one": "kept"}).value() == "kept"


def test_what_was_not_given_is_refused_as_the_platform_refuses_it() -> None:
    @workflow
    def main() -> None:
        connections.get("absent")

    outcome = testing.run(main)
    assert outcome.error is not None
    assert (outcome.error.type, outcome.error.message) == ("Refused", "there is no connection 'absent'")
    with pytest.raises(Refused) as caught:
        outcome.value()
    assert caught.value.kind == "NotFound"


def test_a_connection_may_have_an_end_and_is_masked_wherever_it_turns_up() -> None:
    ends = datetime(2026, 1, 31, tzinfo=UTC)

    @workflow
    def main() -> dict[str, Any]:
        halo = connections.get("halopsa")
        assert halo.token == "a-long-token"
        log.info(f"with {halo.token}", token=halo.token)
        step.sync("keep", lambda: [halo.token])
        return {"ends": halo.expires_at, halo.token: f"Bearer {halo.token}"}

    outcome = testing.run(main, connections={"halopsa": Connection("halopsa", "a-long-token", ends)})
    assert outcome.value() == {"ends": "2026-01-31T00:00:00Z", "***": "Bearer ***"}
    assert outcome.lines == [testing.Line("info", "with ***", {"token": "***"})]
    assert outcome.steps == {"keep": ["***"]}


def test_a_test_that_is_wrong_is_told_at_once() -> None:
    @workflow
    def main() -> None: ...

    wrong: Any = {"connections": {"x": 5}}
    with pytest.raises(TypeError, match=r"connections\['x'\] is a token or a Connection, not int"):
        testing.run(main, **wrong)
    with pytest.raises(TypeError, match="the input is not JSON at \\$\\.a: object"):
        testing.run(main, {"a": object()})
    with pytest.raises(TypeError, match="the recorded result of step 'a' is not JSON"):
        testing.run(main, steps={"a": object()})
    with pytest.raises(TypeError, match="'print' is no workflow"):
        testing.run(print)


def test_a_run_inside_of_a_run_and_one_beside_it_are_refused() -> None:
    @workflow
    def inner() -> None: ...

    @workflow
    def outer() -> None:
        testing.run(inner)

    with pytest.raises(RuntimeError, match="inside of a run"):
        testing.run(outer).value()

    inside, may_end = threading.Event(), threading.Event()

    @workflow
    def slow() -> None:
        inside.set()
        may_end.wait(10)

    thread = threading.Thread(target=testing.run, args=(slow,))
    thread.start()
    try:
        assert inside.wait(10)
        with pytest.raises(RuntimeError, match="beside another"):
            testing.run(inner)
    finally:
        may_end.set()
        thread.join()
    assert testing.run(inner).status == "succeeded"


async def test_it_may_be_called_where_a_loop_is_running() -> None:
    @workflow
    async def main() -> int:
        await asyncio.sleep(0)
        return 7

    assert testing.run(main).value() == 7
    await asyncio.sleep(0)


def test_what_the_author_wants_stopped_is_stopped() -> None:
    @workflow
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        testing.run(main)


def test_tasks_that_were_left_behind_meet_their_cancellation() -> None:
    ended = []

    @workflow
    async def main() -> None:
        async def for_ever() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(1)

        main.task = asyncio.create_task(for_ever())  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    assert testing.run(main).status == "succeeded"
    assert ended == [1]


def test_what_a_test_gives_of_the_wrong_kind_is_told_at_once() -> None:
    @workflow
    def main() -> None: ...

    wrong: Any = {"secrets": {"x": 5}}
    with pytest.raises(TypeError, match=r"secrets\['x'\] is text, not int"):
        testing.run(main, **wrong)
    with pytest.raises(TypeError, match=r"variables\['x'\] is not JSON"):
        testing.run(main, variables={"x": object()})
    with pytest.raises(TypeError, match="topics are a list of names, not 'tickets'"):
        testing.run(main, topics="tickets")


def test_what_a_run_changes_is_in_the_outcome_and_not_in_what_was_given() -> None:
    given = {"data/a": "1"}
    variables = {"deep": {"a": [1]}}

    @workflow
    def main() -> None:
        files.write("data/a", "2")
        artifacts.write("report.csv", "3")
        with pytest.raises(Refused, match="its own artifacts"):
            files.write("artifacts/another/report.csv", "4")
        config.get("deep")["a"].append(2)

    outcome = testing.run(main, files=given, variables=variables)
    assert outcome.files == {"data/a": b"2", "artifacts/testing/report.csv": b"3"}
    assert (given, variables) == ({"data/a": "1"}, {"deep": {"a": [1]}})


def test_a_run_that_waits_for_a_signal_that_nobody_gives_is_waiting() -> None:
    ends: list[str] = []

    @workflow
    async def main() -> None:
        await step("before", ends.append, "before")
        await wait_for("approval")
        ends.append("after")

    @workflow
    def plain() -> None:
        wait_for.sync("approval")

    outcome = testing.run(main)
    assert (outcome.status, outcome.reason, outcome.error, ends) == ("waiting", None, None, ["before"])
    assert testing.run(plain).status == "waiting"
    with pytest.raises(RuntimeError, match="waiting for signal"):
        outcome.value()
    assert testing.run(main, signals={"approval": [None]}, steps=outcome.steps).status == "succeeded"
    assert ends == ["before", "after"]


def test_a_run_may_cancel_itself() -> None:
    @workflow
    async def main() -> None:
        runs.cancel()
        await asyncio.sleep(60)

    @workflow
    def plain() -> None:
        runs.cancel()

    assert (testing.run(main).status, testing.run(plain).status) == ("cancelled", "cancelled")


def test_a_child_run_may_be_given_by_its_result() -> None:
    @workflow
    async def main() -> list[Any]:
        first = await runs.astart("child", {"n": 1}, run_at=datetime(2026, 1, 31, tzinfo=UTC))
        return [await runs.wait(first), await runs.call("child")]

    outcome = testing.run(main, runs={"child": [1, 2]})
    assert outcome.value() == [[1, 2], [1, 2]]
    assert outcome.started == [testing.Started("child", {"n": 1}, {"run_at": "2026-01-31T00:00:00Z"}), testing.Started("child")]
    with pytest.raises(TypeError, match=r"signals\['a'\] is a list"):
        testing.run(main, signals={"a": "yes"})


def test_a_later_attempt_is_held_to_the_order_of_the_first() -> None:
    takes = ["one", "two"]

    @workflow
    async def main() -> str:
        for name in takes:
            await step(name, str, name)
        await sleep(90)
        found = await runs.call("child", {"n": len(takes)})
        raise ConnectionError(found)

    def child(given: dict[str, int]) -> str:
        return f"of {given['n']}"

    first = testing.run(main, runs={"child": child})
    assert first.steps == {"one": "one", "two": "two"}
    assert (first.slept, [one.run for one in first.started]) == ([90], ["child-1"])
    second = testing.run(main, steps=first.steps, runs={"child": child})
    assert (second.error, second.slept, second.started) == (first.error, [], [])
    takes.reverse()
    third = testing.run(main, steps=first.steps, runs={"child": child})
    assert isinstance(third.exception, OrderChanged)
    assert testing.run(main, steps=dict(first.steps), runs={"child": child}).error == first.error


def test_no_time_passes_in_a_sleep() -> None:
    @workflow
    def main() -> None:
        sleep.sync(30)
        sleep.sync(timedelta(days=300))

    began = time.monotonic()
    assert testing.run(main).slept == [30, 300 * 86400]
    assert time.monotonic() - began < 20


def test_a_child_may_end_as_any_run_does() -> None:
    @workflow
    async def main() -> list[object]:
        ends: list[object] = []
        for name in ("late", "large", "given"):
            try:
                ends.append(await runs.call(name))
            except ChildFailed as error:
                ends.append([error.status, error.reason])
        return ends

    late = ChildFailed("", "timed_out", "timeout", None)
    ends = testing.run(main, runs={"late": late, "large": "x" * 300_000, "given": {"a": [1]}}).value()
    assert ends == [["timed_out", "timeout"], {"$ref": ends[1]["$ref"], "bytes": 300_002}, {"a": [1]}]


def test_what_waits_or_stopped_itself_has_no_value() -> None:
    @workflow
    async def main(name: str) -> None:
        if name:
            await wait_for(name)
        runs.cancel()
        await asyncio.sleep(60)

    waiting = testing.run(main, {"name": "go"})
    assert (waiting.status, waiting.reason, waiting.error) == ("waiting", None, None)
    with pytest.raises(RuntimeError, match="waiting for signal 'go'"):
        waiting.value()
    with pytest.raises(RuntimeError, match="cancelled"):
        testing.run(main, {"name": "go"}, signals={"go": [None]}).value()


def test_signals_are_given_as_lists() -> None:
    @workflow
    def main() -> None: ...

    with pytest.raises(TypeError, match=r"signals\['go'\] is a list"):
        testing.run(main, signals={"go": "yes"})


def test_a_wait_with_a_time_out_of_its_own_is_over_at_once_and_stays_so() -> None:
    @workflow
    async def main() -> list[Any]:
        said: list[Any] = []
        try:
            async with asyncio.timeout(3600):
                await wait_for("go")
        except TimeoutError:
            said.append("in vain")
        said.append((await wait_for("other")).data)
        return said

    first = testing.run(main)
    assert (first.status, first.waits) == ("waiting", [testing.Waiting("signal", "other")])
    second = testing.run(main, steps=first.steps, signals={"go": ["late"], "other": [1]})
    assert second.value() == ["in vain", 1]


def test_lines_that_an_attempt_said_before_it_waited_are_not_said_by_the_next() -> None:
    @workflow
    async def main() -> None:
        log.info("begun")
        await step("one", int)
        log.info("before")
        answer = await wait_for("go")
        log.info("after", data=answer.data)

    first = testing.run(main)
    assert [line.event for line in first.lines] == ["begun", "before"]
    second = testing.run(main, steps=first.steps, signals={"go": [1]})
    assert second.lines == [testing.Line("info", "after", {"data": 1})]
    assert [line.event for line in testing.run(main, steps={"one": 0}).lines] == ["begun", "before"]


def test_an_attempt_that_gives_nothing_up_where_the_first_did_has_changed_its_way() -> None:
    impatient = True

    @workflow
    async def main() -> None:
        waiting = asyncio.create_task(wait_for("go"))
        await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        if impatient:
            waiting.cancel()
            await step("gone", int)
            await wait_for("other")
        await waiting

    first = testing.run(main)
    assert first.status == "waiting"
    impatient = False
    assert isinstance(testing.run(main, steps=first.steps).exception, OrderChanged)


def test_state_and_locks_are_shared_with_the_test() -> None:
    @workflow
    async def main() -> dict[str, Any]:
        first = await state.aput("a", 1, expected=0)
        with pytest.raises(VersionConflict, match="version 2 is there"):
            state.put("a", 2, expected=first.version + 5)
        with pytest.raises(Refused, match="no whole number"):
            await state.aincrement("text")
        async with locks.hold("mine") as fence:
            with pytest.raises(LockTimeout):
                locks.hold("mine", timeout=0).__enter__()
        with locks.hold("mine") as later, pytest.raises(LockTimeout):
            async with locks.hold("theirs"):
                pass
        return {
            "counted": [state.increment("n"), state.increment("n", -5)],
            "deleted": [state.delete("text"), state.delete("text")],
            "keys": [one.key for one in state.list()],
            "fences": later > fence,
            "version": state.item("a") == first,
        }

    outcome = testing.run(main, state={"text": "b"}, held=["theirs"])
    assert outcome.value() == {
        "counted": [1, -4],
        "deleted": [True, False],
        "keys": ["a", "n"],
        "fences": True,
        "version": True,
    }
    assert outcome.state == {"a": 1, "n": -4}
    assert outcome.locks == ["mine", "mine"]


RETURNED: list[Any] = [
    [], ["a", 1, 1.5, True], [{"value": None}], [{"value": [1], "label": "one", "more": {}}], [{"label": "a"}], [None], [[]],
    [{"value": 1, "label": 2}], None, 5, {"value": 1},
]  # fmt: skip


@pytest.mark.parametrize("returned", RETURNED)
def test_options_are_those_that_the_platform_would_answer(returned: Any) -> None:
    @data_provider
    def main() -> Any:
        return returned

    try:
        wanted = options_of(returned)
    except CodeFailed:
        with pytest.raises(TypeError):
            testing.options(main)
    else:
        assert testing.options(main) == wanted


@pytest.mark.parametrize("value", [5, "a", True, 1.5, None, 2**53])
def test_the_state_refuses_in_the_platforms_words(value: Any) -> None:
    @workflow
    def main() -> list[str]:
        said = []
        for call in (
            lambda: state.increment("a"),
            lambda: state.put("a", 1, expected=9),
            lambda: state.put("a", 1, expected=0),
        ):
            try:
                call()
            except Refused as error:
                said.append(f"{error.kind}: {error}")
        return said

    found = StateView(key="a", value=value, version=1, updated_at="", updated_by="", expires_at=None)
    wanted = []
    for raised in (
        lambda: increased(found, "a", 1),
        lambda: checked_version(found, "a", 9),
        lambda: checked_version(found, "a", 0),
    ):
        try:
            raised()
        except MillraceError as error:
            wanted.append(f"{type(error).__name__}: {error.detail}")
    told = testing.run(main, state={"a": value}).value()
    assert [one.replace("version 2", "version 1") for one in told] == wanted
