"""What an author gives is judged at the call, by name, before anything is sent; and the supervisor's bounds are no narrower."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import pytest

from millrace import (
    _bounds,
    config,
    connections,
    data_provider,
    events,
    files,
    integrations,
    locks,
    log,
    runs,
    secrets,
    sleep,
    state,
    step,
    testing,
    variables,
    wait_for,
    workflow,
)
from millrace._declare import REGISTRY
from millrace._runtime.encode import MAX_DEPTH
from millrace.testing.play import _Attempt
from services.executor.sandbox import frames, requests
from services.executor.sandbox.requests import SERVED
from shared import values

NAN, INFINITE = float("nan"), float("inf")
ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)
DEEP: Any = None
for _ in range(MAX_DEPTH + 2):
    DEEP = [DEEP]
NO_NAMES: list[Any] = ["", "x" * 201, "a\0b", "\ud800", 5, None, b"a", NAN, ["a"]]
NO_PATHS: list[Any] = ["x" * 4097, "a\0b", "\udfff", 5, None, b"a"]
NO_TIMES: list[Any] = [-1, -0.001, NAN, INFINITE, 1e300, 10**400, 31_622_401, "5", True, timedelta(days=-1), timedelta(367)]
NO_MOMENTS: list[Any] = [
    datetime(2026, 1, 31),  # noqa: DTZ001 - that it has no zone is the point
    datetime.max.replace(tzinfo=UTC),
    datetime.min.replace(tzinfo=UTC),
    "2026-01-31T09:30:00Z",
    "garbage",
    5,
]
NO_JSON: list[Any] = [object(), NAN, "a\0", "\ud800", ENDLESS, DEEP, 2**64, {1, 2}, {"a\0": 1}]


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    before = len(REGISTRY)
    yield
    del REGISTRY[before:]


async def called_with(call: Callable[[Any], Any], one: Any) -> None:
    made = call(one)
    if inspect.isawaitable(made):
        await made


CALLS: dict[str, tuple[Callable[[Any], Any], list[Any], str]] = {
    "step's name": (lambda wrong: step(wrong, int), NO_NAMES, "a step's name"),
    "step.sync's name": (lambda wrong: step.sync(wrong, int), NO_NAMES, "a step's name"),
    "step's function": (lambda wrong: step("a", wrong), [5, None, "int"], "what step 'a' calls"),
    "step.sync's function": (lambda wrong: step.sync("a", wrong), [5, None, "int"], "what step 'a' calls"),
    "step's result": (lambda wrong: step("a", lambda: wrong), NO_JSON, "the result of step 'a'"),
    "step.sync's result": (lambda wrong: step.sync("a", lambda: wrong), NO_JSON, "the result of step 'a'"),
    "step's retries": (lambda wrong: step.options(retries=wrong), [-1, 1001, 10**9, 1.5, True, "1", None], "retries"),
    "step's delay": (lambda wrong: step.options(delay=wrong), [*NO_TIMES, None], "delay"),
    "step's timeout": (lambda wrong: step.options(timeout=wrong), [*NO_TIMES, 0], "timeout"),
    "sleep": (sleep, [*NO_TIMES, *NO_MOMENTS[:2], None], "a time to wait"),
    "sleep.sync": (sleep.sync, [*NO_TIMES, *NO_MOMENTS[:2], None], "a time to wait"),
    "wait_for's name": (wait_for, NO_NAMES, "a signal's name"),
    "wait_for.sync's name": (wait_for.sync, NO_NAMES, "a signal's name"),
    "wait_for's timeout": (lambda wrong: wait_for("a", timeout=wrong), NO_TIMES, "timeout"),
    "wait_for.sync's timeout": (lambda wrong: wait_for.sync("a", timeout=wrong), NO_TIMES, "timeout"),
    "runs.start's workflow": (runs.start, NO_NAMES, "a workflow's name"),
    "runs.astart's workflow": (runs.astart, NO_NAMES, "a workflow's name"),
    "runs.call's workflow": (runs.call, NO_NAMES, "a workflow's name"),
    "runs.call_sync's workflow": (runs.call_sync, NO_NAMES, "a workflow's name"),
    "runs.start's input": (lambda wrong: runs.start("a", wrong), [5, [1], "a", {5: 1}], "the input of a"),
    "runs.start's values": (lambda wrong: runs.start("a", {"k": wrong}), [*NO_JSON, "x" * (1 << 20)], "the input of a"),
    "runs.start's priority": (lambda wrong: runs.start("a", priority=wrong), ["urgent", "", 5], "priority"),
    "runs.astart's priority": (lambda wrong: runs.astart("a", priority=wrong), ["urgent", "", 5], "priority"),
    "runs.start's run_at": (lambda wrong: runs.start("a", run_at=wrong), NO_MOMENTS, "run_at"),
    "runs.start's concurrency_key": (
        lambda wrong: runs.start("a", concurrency_key=wrong),
        [one for one in NO_NAMES if one is not None],
        "concurrency_key",
    ),
    "runs.start's options": (lambda wrong: runs.start("a", **{wrong: 1}), ["prio"], "prio"),
    "runs.wait's run": (runs.wait, NO_NAMES, "a run's id"),
    "runs.wait_sync's run": (runs.wait_sync, NO_NAMES, "a run's id"),
    "runs.wait's timeout": (lambda wrong: runs.wait("a", timeout=wrong), NO_TIMES, "timeout"),
    "runs.wait_sync's timeout": (lambda wrong: runs.wait_sync("a", timeout=wrong), NO_TIMES, "timeout"),
    "connections.get": (connections.get, NO_NAMES, "a connection's name"),
    "connections.aget": (connections.aget, NO_NAMES, "a connection's name"),
    "integrations.get": (integrations.get, NO_NAMES, "an integration's name"),
    "integrations.aget": (integrations.aget, NO_NAMES, "an integration's name"),
    "variables.get": (lambda wrong: variables.get(wrong, 5), NO_NAMES, "a variable's name"),
    "variables.aget": (lambda wrong: variables.aget(wrong, 5), NO_NAMES, "a variable's name"),
    "config.get": (config.get, NO_NAMES, "a variable's name"),
    "secrets.get": (secrets.get, NO_NAMES, "a secret's name"),
    "secrets.aget": (secrets.aget, NO_NAMES, "a secret's name"),
    "events.emit's source": (lambda wrong: events.emit(wrong, "b"), NO_NAMES, "a source"),
    "events.emit's type": (lambda wrong: events.emit("a", wrong), NO_NAMES, "an event's type"),
    "events.emit's data": (lambda wrong: events.emit("a", "b", wrong), NO_JSON[:-2], "the event's data"),
    "events.aemit's source": (lambda wrong: events.aemit(wrong, "b"), NO_NAMES, "a source"),
    "files.read": (files.read, [*NO_PATHS, ""], "a path"),
    "files.aread": (files.aread, [*NO_PATHS, ""], "a path"),
    "files.read_text": (files.read_text, [*NO_PATHS, ""], "a path"),
    "files.chunks": (lambda wrong: list(files.chunks(wrong)), [*NO_PATHS, ""], "a path"),
    "files.write": (lambda wrong: files.write(wrong, b""), [*NO_PATHS, ""], "a path"),
    "files.awrite": (lambda wrong: files.awrite(wrong, b""), [*NO_PATHS, ""], "a path"),
    "files.write's content": (lambda wrong: files.write("data/a", wrong), [5, None, [5]], "a file's content"),
    "files.list": (files.list, NO_PATHS, "a prefix"),
    "files.delete": (files.delete, [*NO_PATHS, ""], "a path"),
    "files.exists": (files.exists, [*NO_PATHS, ""], "a path"),
    "state.get": (state.get, NO_NAMES, "a key"),
    "state.aitem": (state.aitem, NO_NAMES, "a key"),
    "state.put's key": (lambda wrong: state.put(wrong, 1), NO_NAMES, "a key"),
    "state.put's value": (lambda wrong: state.put("a", wrong), [*NO_JSON, "x" * (1 << 14)], "the value"),
    "state.put's version": (lambda wrong: state.put("a", 1, expected=wrong), [-1, 1.5, True, "1", 2**60], "expected"),
    "state.aput's ttl": (lambda wrong: state.aput("a", 1, ttl=wrong), [*[one for one in NO_TIMES if one is not None], 0], "ttl"),
    "state.increment's amount": (lambda wrong: state.increment("a", wrong), [1.5, True, "1", None, 2**60], "by"),
    "state.adelete": (state.adelete, NO_NAMES, "a key"),
    "state.list": (state.list, [5, None, "x" * 201, "a\0"], "a prefix"),
    "locks.hold's name": (locks.hold, NO_NAMES, "a lock's name"),
    "locks.hold's timeout": (lambda wrong: locks.hold("a", wrong), [*NO_TIMES, None, 3601], "timeout"),
}


@pytest.mark.parametrize("called", CALLS)
def test_a_call_that_can_never_work_is_refused_by_name_before_anything_is_sent(
    called: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, wrong, named = CALLS[called]
    sent: list[str] = []
    monkeypatch.setattr(_Attempt, "ask", lambda _attempt, kind, **_fields: sent.append(kind))

    @workflow
    async def main() -> None:
        for one in wrong:
            with pytest.raises((ValueError, TypeError)) as caught:
                await called_with(call, one)
            assert named in str(caught.value), f"{one!r}: {caught.value}"
            assert len(str(caught.value)) < 500

    testing.run(main).value()
    assert sent == []


DECLARED: dict[str, list[Any]] = {
    "name": ["a b", "", "x" * 65, "a\0", 5, b"a"],
    "timeout": [*NO_TIMES, 0, -5, 1e15],
    "retries": [-1, 1001, 10**9, True, 1.5, "1", None],
    "retry_delay": [*NO_TIMES, None, 1e15],
    "retry_max_delay": [*NO_TIMES, None, 1e15],
    "queue_timeout": [*NO_TIMES, 0, 1e18, 2**63 - 1],
    "concurrency": ["", 5, "a\0", "\ud800", "+".join(["1"] * 100_000)],
    "concurrency_limit": [0, -1, 1001, True, 1.5, "1", None],
    "concurrency_policy": ["wait", "", 5, None, ["queue"]],
    "isolation": ["none", "", 5, None],
    "ttl": [*NO_TIMES, None, 0, 86_401],
    "stale": [*NO_TIMES, None, -1, 86_401],
    "schedule": [
        "",
        5,
        {},
        {"timezone": "UTC"},
        {"cron": "* * * * *", "every": 5},
        {"every": 0},
        {"every": 1.5},
        {"cron": 5},
        {"at": 5},
    ]
    + [{"every": 5} | wrong for wrong in ({"overlap": "wait"}, {"catch_up": True}, {"timezone": 5}, {"input": [1]})],
}


@pytest.mark.parametrize("parameter", DECLARED)
def test_what_can_never_work_is_said_at_the_decorator_by_name(parameter: str) -> None:
    def main() -> None: ...

    for wrong in DECLARED[parameter]:
        both = {"name": (workflow, data_provider), "timeout": (workflow, data_provider)}
        only = (data_provider,) if parameter in {"ttl", "stale"} else (workflow,)
        for decorator in both.get(parameter, only):
            made: Any = decorator
            with pytest.raises((ValueError, TypeError), match=r"name" if parameter == "name" else parameter):
                made(**{parameter: wrong})(main)


def test_a_tool_says_what_it_is_and_nothing_else_says_so() -> None:
    @workflow(tool=True, destructive=False, read_only=True)
    def look() -> None: ...

    assert REGISTRY[-1].policy == {"tool": {"destructive": False, "read_only": True}}
    for declared, error, said in (
        ({"destructive": False}, ValueError, "tool=True"),
        ({"tool": 1}, TypeError, "tool"),
        ({"tool": True, "idempotent": "yes"}, TypeError, "idempotent"),
        ({"tool": True, "name": "millrace_commit"}, ValueError, "millrace_"),
    ):
        options: Any = declared
        with pytest.raises(error, match=said):
            workflow(**options)(look)


def test_what_is_just_within_bounds_is_taken() -> None:
    @workflow(
        name="x" * 64,
        timeout=_bounds.YEAR,
        retries=_bounds.RETRIES,
        retry_delay=0,
        retry_max_delay=_bounds.YEAR,
        queue_timeout=0.001,
        concurrency="1" * _bounds.EXPRESSION,
        concurrency_limit=_bounds.TURNS,
    )
    async def main() -> Any:
        await step("x" * 200, int)
        await sleep(timedelta(seconds=_bounds.YEAR))
        return runs.start("w", {"n": 2**64 - 1}, priority="low", run_at=datetime.now(UTC), concurrency_key="x" * 200)

    assert testing.run(main, runs={"w": 1}).value() == "w-1"


HOSTILE: list[Any] = [object(), NAN, "a\0b", "\ud800", ENDLESS, DEEP, 10**5000, b"\xff", {"a\0": {1: 2}}, "x" * 10**6]


def test_a_line_is_kept_whatever_its_event_and_fields_hold() -> None:
    class Hostile:
        def __repr__(self) -> str:
            raise ValueError

    @workflow
    def main() -> None:
        for one in (*HOSTILE, Hostile()):
            log.info(one, field=one, **{"a\0\ud800": one})
        log.info("many", **{f"k{number}": ["é" * 20_000] * 1000 for number in range(200)})

    lines = testing.run(main).lines
    assert len(lines) == len(HOSTILE) + 2
    for line in lines:
        payload = msgspec.json.encode({"kind": "log", "level": line.level, "event": line.event, "fields": line.fields})
        frames.decode(payload)
        assert len(payload) < 64 * 1024
    assert lines[2].fields == {"field": "a\ufffdb", "a\ufffd\ufffd": "a\ufffdb"}


def bound(hint: Any, name: str) -> Any:
    """The bound of an annotated type, also of a member of a union."""
    for one in (hint, *get_args(hint)):
        if get_origin(one) is Annotated:
            for meta in get_args(one)[1:]:
                if getattr(meta, name, None) is not None:
                    return getattr(meta, name)
    return None


def test_the_supervisor_takes_what_the_sdk_sends() -> None:
    names = {"name", "workflow", "source", "type", "concurrency_key"}
    paths = {"path", "prefix", "after"}
    for kind in SERVED:
        hints = get_type_hints(kind, include_extras=True)
        for field, hint in hints.items():
            most = bound(hint, "max_length")
            if field in names:
                assert most >= _bounds.NAME, (kind, field)
            if field in paths:
                assert most >= _bounds.PATH, (kind, field)
            if field == "seconds":
                assert bound(hint, "le") >= _bounds.YEAR, kind
    assert set(get_args(get_args(get_type_hints(requests.StartRun)["priority"])[0])) == set(_bounds.PRIORITIES)


def test_the_sdk_s_bounds_are_those_of_what_may_enter() -> None:
    assert _bounds.YEAR == values.YEAR
    assert (_bounds.LEAST_INTEGER, _bounds.MOST_INTEGER) == (values.LEAST_INTEGER, values.MOST_INTEGER)
    theirs = (values.LEAST_FLOAT, values.MOST_FLOAT, values.MOST_EXTREME)
    assert theirs == (_bounds.LEAST_FLOAT, _bounds.MOST_FLOAT, _bounds.MOST_EXTREME)
    assert values.DEPTH == MAX_DEPTH
    for end in (values.FIRST, values.LAST):
        assert _bounds.moment(end, "it") == end


@pytest.mark.parametrize("function", [lambda: next(iter([])), lambda: [].__iter__().__next__()])
def test_a_step_that_runs_out_of_an_iterator_is_an_error_and_no_wait_for_ever(function: Callable[[], Any]) -> None:
    @workflow
    async def main() -> None:
        await step("first", function)

    @workflow
    def plain() -> None:
        step.sync("first", function)

    for one in (main, plain):
        error = testing.run(one).error
        assert error is not None
        assert error.type == "RuntimeError"
        assert "StopIteration" in error.message
    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(step("first", function))
