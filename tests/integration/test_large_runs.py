"""A run that records much is bounded, and to look at one costs what has changed, not what it has recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.executor import store
from services.executor.questions import QUESTIONS
from services.executor.runs import durable, looks, run_state, steps
from services.executor.runs.groups import WorkerGroups
from services.executor.runs.looks import Looks
from services.executor.runs.recent import Recent
from services.executor.runs.run_state import RunState
from services.executor.store import ExecutorStore
from services.gateway.api import runs as routes
from shared import aggregate, db
from shared.bus import Bus
from shared.envelope import new_id, open_message
from shared.errors import Conflict, NotFound, Unavailable
from shared.messages import RunCancelRequested, RunStepCompleted
from shared.questions import Page
from shared.questions.runs import GetRun, ListAttempts, ListStates, ListSteps, SignalRun
from tests.integration.test_stood_still import claimed
from tests.support.inside import bus_of, eventually
from tests.support.river import Outside, river
from tests.support.servers import Place

LARGE = 250_000
WORKFLOWS = b"""
from millrace import step, wait_for, workflow


@workflow(retries=3, retry_delay=0.01)
def greedy(times: int) -> str:
    for number in range(times):
        try:
            step.sync(f"s{number}", str.ljust, str(number), 250_000)
        except Exception:
            pass
    return "unaware"


@workflow
def listen() -> None:
    while True:
        wait_for.sync("more")


@workflow
def patient(times: int) -> str:
    for number in range(times):
        step.sync(f"s{number}", str.ljust, str(number), 250_000)
    return wait_for.sync("go").data


@workflow
def insatiable(times: int) -> str:
    for number in range(times):
        step.sync(f"s{number}", str.ljust, str(number), 250_000)
    wait_for.sync("go")
    return step.sync("one more", str, 1)
"""


@pytest.fixture
async def outside(place: Place, data: Path) -> AsyncIterator[Outside]:
    async with river(place, data) as made:
        assert (await made.put_file("large.py", WORKFLOWS)).problems == []
        yield made


@asynccontextmanager
async def replica(place: Place) -> AsyncIterator[Any]:
    """What another executor has for answering."""
    engine = db.open_engine(place.database_url("executor"), service="executor")
    try:
        async with bus_of(place, "executor") as bus:
            made = ExecutorStore(engine)
            yield SimpleNamespace(
                bus=bus,
                store=made,
                looks=Looks(bus, made),
                recent=Recent(lambda *_: False),
                groups=WorkerGroups(bus.client, "other", (), made.queued_in_groups),
                engine=engine,
            )
    finally:
        await engine.dispose()


def read(bus: Bus) -> int:
    """Return how many bytes the broker has sent to it."""
    return bus.client.stats["in_bytes"]


async def test_a_run_that_records_more_than_one_may_fails_by_that_limit_and_is_not_tried_again(
    outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "RECORDED", 3 * LARGE)
    assert (await outside.run(await outside.request("greedy", input={"times": 2}), "succeeded")).result == "unaware"
    failed = await outside.run(await outside.request("greedy", input={"times": 9}), "failed")
    assert (failed.reason, failed.attempt) == ("limit", 1)
    assert failed.error is not None
    assert failed.error.type == "RecordLimit"
    for told in (str(3 * LARGE), str(3 * (LARGE + 2)), "file"):
        assert told in failed.error.message
    assert (await outside.types(failed.id)).count("run.step_completed") == 2


async def test_what_a_run_is_told_counts_as_well_over_all_its_attempts(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "RECORDED", 2 * LARGE)
    run = await outside.request("listen")
    for _ in range(3):
        await outside.run(run, "waiting")
        told = len(await outside.types(run))
        await outside.signal(run, "more", "x" * (LARGE - 1000))

        async def went_on(told: int = told) -> bool:
            types = await outside.types(run)
            return len(types) > told and types[-1] in {"run.waiting", "run.failed"}

        await eventually(went_on)
    failed = await outside.run(run, "failed")
    assert (failed.reason, failed.attempt) == ("limit", 4)


async def test_a_run_that_recorded_more_before_there_was_a_bound_is_read_and_comes_to_its_end(
    outside: Outside, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [await outside.request(name, input={"times": 6}) for name in ("patient", "insatiable", "patient")]
    for run in runs:
        await outside.run(run, "waiting")
    monkeypatch.setattr(durable, "RECORDED", LARGE)
    listed = await outside.bus.ask(ListSteps(org="default", id=runs[0], results=False, page=Page(limit=1000)))
    assert [one.bytes for one in listed.items] == [LARGE + 2] * 6
    for run in runs[:2]:
        await outside.signal(run, "go", "gone")
    assert (await outside.run(runs[0], "succeeded")).result == "gone"
    assert (await outside.run(runs[1], "failed")).reason == "limit"
    async with bus_of(place, "gateway") as bus:
        first, sequence, cancelling = await routes._open_run(_gateway(bus), _caller(), runs[2])
        assert not cancelling
        asked = bus.seal(RunCancelRequested(run=runs[2], requested_by="x"), org="default", cause=first)
        await bus.append(asked, sequence)
    await outside.run(runs[2], "cancelled")


def _gateway(bus: Bus) -> Any:
    return SimpleNamespace(bus=bus)


def _caller(org: str = "default") -> Any:
    return SimpleNamespace(org=org, actor="ada")


async def test_to_look_at_a_large_run_reads_nothing_of_what_it_recorded(outside: Outside, place: Place) -> None:
    run = await outside.request("patient", input={"times": 20})
    await outside.run(run, "waiting")
    async with replica(place) as deps:

        async def in_rows() -> bool:
            row = await deps.store.run("default", run)
            return row is not None and row.status == "waiting"

        await eventually(in_rows)
        before = read(deps.bus)
        asked: list[Any] = [
            GetRun(org="default", id=run),
            ListAttempts(org="default", id=run),
            ListSteps(org="default", id=run, page=Page(limit=1000)),
            ListSteps(org="default", id=run, results=False, page=Page(limit=1000)),
            ListStates(org="default", id=run, after=(await deps.store.run("default", run)).last_seq),
            *(SignalRun(id=new_id(), org="default", actor="a", run=run, name="other") for _ in range(30)),
        ]
        answers = await asyncio.gather(*(QUESTIONS[type(question)](question, deps) for question in asked))
        assert read(deps.bus) - before < LARGE
        assert (len(answers[2].items), len(answers[3].items)) == (4, 20)
        assert (await outside.types(run)).count("run.signalled") == 30
    async with bus_of(place, "gateway") as bus:
        before = read(bus)
        first, sequence, _ = await routes._open_run(_gateway(bus), _caller(), run)
        assert read(bus) - before < LARGE
        assert (first.type, sequence) == ("run.requested", (await _last(bus, run)))
        with pytest.raises(NotFound):
            await routes._open_run(_gateway(bus), _caller("other"), run)
    await outside.signal(run, "go", 1)
    await outside.run(run, "succeeded")
    async with bus_of(place, "gateway") as bus:
        with pytest.raises(Conflict, match="succeeded"):
            await routes._open_run(_gateway(bus), _caller(), run)


async def _last(bus: Bus, run: str) -> int:
    last = await aggregate.last(bus.client, "run", run)
    assert last is not None
    return last.sequence


async def test_a_claim_that_meets_a_conflict_reads_what_came_since_and_no_more(place: Place) -> None:
    async with bus_of(place, "executor") as bus:
        mine = await claimed(bus)
        for number in range(20):
            await mine.step(RunStepCompleted(run=mine.run, attempt=1, name=f"s{number}", ordinal=0, result="x" * LARGE))
        asked = RunCancelRequested(run=mine.run, requested_by="x")
        await bus.append(bus.seal(asked, org="default"), mine.current.last_seq)
        before = read(bus)
        await mine.step(RunStepCompleted(run=mine.run, attempt=1, name="last", ordinal=0, result=1))
        assert mine.cancel.is_set()
        assert read(bus) - before < LARGE


async def test_steps_are_paged_from_the_rows_and_then_from_what_the_rows_have_not_yet(place: Place) -> None:
    async with replica(place) as deps:
        mine = await claimed(deps.bus)
        names = [f"s{number}" for number in range(12)]
        for name in names:
            await mine.step(RunStepCompleted(run=mine.run, attempt=1, name=name, ordinal=0, result="x" * LARGE))

        async def listed(limit: int, *, results: bool = True) -> list[str]:
            found: list[str] = []
            cursor = None
            while True:
                asked = ListSteps(org="default", id=mine.run, results=results, page=Page(limit=limit, cursor=cursor))
                page = await QUESTIONS[ListSteps](asked, deps)
                found += [one.name for one in page.items]
                cursor = page.next_cursor
                if cursor is None:
                    return found

        for rows in (0, 4, 9):
            await _project(deps, mine.run, rows)
            for limit in (1, 5, 1000):
                assert await listed(limit) == names, (rows, limit)
            assert await listed(1000, results=False) == names
        with pytest.raises(NotFound):
            await QUESTIONS[ListSteps](ListSteps(org="other", id=mine.run), deps)


async def _project(deps: Any, run: str, count: int) -> None:
    """Make rows of the first so many messages, and of one step more than the run's row tells of."""
    state: RunState | None = None
    done: list[steps.Step] = []
    number = 0
    async for stored in aggregate.history(deps.bus.client, "run", run):
        number += 1
        if number > count + 1 or not count:
            break
        after = run_state.evolve(state, stored.envelope, open_message(stored.envelope), stored.sequence)
        assert after is not None
        done += steps.steps_of(after, stored.envelope, open_message(stored.envelope), stored.sequence)
        state = after if number <= count else state
    if state is not None:
        async with db.transaction(deps.engine) as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            for statement in (store.put_states([state]), store.put_steps(done)):
                await raw.execute(statement.sql, *statement.values)


async def test_those_who_ask_for_a_run_together_share_a_look_that_is_no_older_than_their_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = asyncio.Event()
    begun: list[str] = []

    async def slow(_bus: Any, _store: Any, run: str) -> Any:
        begun.append(run)
        number = len(begun)
        await gate.wait()
        return SimpleNamespace(state=number)

    monkeypatch.setattr(looks, "read_now", slow)
    shared: Any = Looks(Any, Any)  # type: ignore[arg-type]
    first = asyncio.create_task(shared.state("a"))
    while not begun:
        await asyncio.sleep(0)
    others = [asyncio.create_task(shared.state("a")) for _ in range(30)]
    await asyncio.sleep(0)
    gate.set()
    assert await first == 1
    assert set(await asyncio.gather(*others)) == {2}
    assert len(begun) == 2


async def test_looks_are_bounded_and_the_one_too_many_is_told_when_to_come_again() -> None:
    few = Looks(Any, Any, places=1, queue=1)  # type: ignore[arg-type]
    async with few.place():
        waiting = asyncio.create_task(_hold(few))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable) as refused:
            await _hold(few)
        assert refused.value.retry_after
    await waiting
    await _hold(few)


async def _hold(few: Looks) -> None:
    async with few.place():
        pass
