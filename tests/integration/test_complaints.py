"""The fifteen things that users of workflow engines complain of most, each with the test that shows it is not so here.

Each has more tests in the place where it belongs; here stands the plainest one. A slow machine may be slow.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from services.executor import config
from services.executor.runs.claim import fold
from services.executor.runs.purge import purge
from shared.config import ConfigError, Environment
from shared.errors import Conflict
from shared.messages import RunRequested
from shared.pull import api_request
from shared.questions import Page
from shared.questions.runs import ListLines, ListRuns, RunList
from tests.integration.test_lost_waits import ByHand, away, ended_run, slots, without_executor
from tests.integration.test_runs import started
from tests.integration.test_waiting import cancel
from tests.support.inside import bus_of, eventually, running
from tests.support.river import COUNT, Outside, river, sandbox_settings, standing
from tests.support.servers import Place, Servers

WORKFLOWS = (
    COUNT
    + b"""
import asyncio
import os
import time

from millrace import log, sleep, step, workflow


def hold(folder: str) -> None:
    while not os.path.exists(f"{folder}/go"):
        time.sleep(0.01)


@workflow
def plain(folder: str = "") -> str:
    if folder:
        count(folder, "plain")
    return "done"


@workflow
def held(folder: str) -> list[int]:
    first = step.sync("first", count, folder, "first")
    count(folder, "started")
    hold(folder)
    return [first, step.sync("second", count, folder, "second")]


@workflow
async def blocking(folder: str) -> None:
    count(folder, "started")
    time.sleep(3600)


@workflow(concurrency="workflow")
def in_turn(folder: str) -> None:
    count(folder, "started")
    hold(folder)


@workflow(concurrency="input.name", concurrency_policy="cancel_older")
def newest(folder: str, name: str, number: int) -> int:
    if number < 3:
        hold(folder)
    return number


@workflow
def enormous() -> str:
    return "x" * 80_000_000


@workflow
def greedy() -> int:
    return len(bytearray(4 << 30))


@workflow
def crashing() -> None:
    os._exit(9)


@workflow
def odd() -> str:
    os.write(1, b"\\xff\\xfe\\x80 and \\x00 then \\xc3")
    os.write(2, b"\\xed\\xa0\\x80\\n")
    log.info("odd", what="\\ud800")
    return "done"


@workflow
async def nap() -> None:
    await sleep(1.1)
"""
)


async def deploy(outside: Outside) -> None:
    view = await outside.put_file("workflows.py", WORKFLOWS)
    assert view.problems == []


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def outside(servers: Servers) -> AsyncIterator[Outside]:
    """Both services with these workflows, for tests that need nothing of their own."""
    async with standing(servers) as made:
        await deploy(made)
        yield made


async def test_1_no_run_stays_queued_when_nobody_was_there_as_it_was_asked_for(
    place: Place, data: Path, shared_folder: Path
) -> None:
    async with river(place, data) as outside:
        await deploy(outside)
        version = (await outside.run(await outside.request("plain"), "succeeded")).version
    async with bus_of(place, "gateway") as gateway:
        runs = [f"run-{number}" for number in range(20)]
        for run in runs:
            asked: dict[str, Any] = {"run": run, "workflow": "plain", "version": version, "requested_by": "test", "timeout": 60.0}
            await gateway.append(gateway.seal(RunRequested(**asked, input={}), org="default"), 0)
    async with river(place, data, MILLRACE_SLOTS="2") as outside:
        for run in runs:
            await outside.run(run, "succeeded")


async def test_2_no_run_is_running_for_ever_after_its_worker_died(place: Place, data: Path, shared_folder: Path) -> None:
    async with without_executor(place, data) as (bus, version):
        hand = ByHand(bus, version)
        await hand.requested("child", {})
        await hand.started()
    async with river(place, data) as outside:
        await outside.run(hand.run, "succeeded")
        folded = await fold(outside.bus, hand.run)
        assert folded is not None
        assert [(one.status, one.reason) for one in folded.state.attempts] == [("lost", "worker_lost"), ("succeeded", None)]


@pytest.mark.parametrize("store", ["broker", "database"])
async def test_3_a_store_that_is_away_for_a_moment_hangs_and_repeats_nothing(
    place: Place, data: Path, shared_folder: Path, store: str
) -> None:
    async with river(place, data) as outside:
        await deploy(outside)
        run = await outside.request("held", input={"folder": str(shared_folder)})
        await started(shared_folder)
        async with away(place, store):
            (shared_folder / "go").touch()
            await asyncio.sleep(3)  # the blip itself
        assert await ended_run(outside.bus, run) == "succeeded"
        assert (shared_folder / "first").read_text() == (shared_folder / "second").read_text() == "x"
        assert (await outside.types(run)).count("run.started") == 1


async def test_4_a_worker_whose_pulls_were_lost_with_the_broker_is_not_deaf(place: Place, data: Path, shared_folder: Path) -> None:
    async with river(place, data) as outside:
        await deploy(outside)
        await outside.run(await outside.request("plain"), "succeeded")
        supervised = place.servers.broker.supervised
        before = supervised.state.pid
        assert before is not None
        # It comes back without the pulls that waited there, while the worker's connection shows signs of life as ever.
        os.kill(before, signal.SIGKILL)

        async def is_back() -> bool:
            return supervised.state.pid not in {None, before} and outside.bus.client.is_connected

        await eventually(is_back)
        run = await eventually(lambda: asked_for(outside, "plain"))
        assert isinstance(run, str)
        assert await ended_run(outside.bus, run) == "succeeded"


async def asked_for(outside: Outside, workflow: str) -> str | None:
    from shared.errors import Unavailable

    try:
        return await outside.request(workflow)
    except Unavailable:
        return None


async def test_5_a_request_that_comes_twice_is_carried_out_once(outside: Outside, shared_folder: Path) -> None:
    version = (await outside.run(await outside.request("plain"), "succeeded")).version
    asked = RunRequested(
        run="twice",
        workflow="plain",
        version=version,
        input={"folder": str(shared_folder)},
        requested_by="test",
        timeout=60.0,
    )
    first = outside.bus.seal(asked, org="default", id="twice")
    await outside.bus.append(first, 0)
    await outside.bus.append(first, 0)  # the same request, whose answer was lost
    await outside.run("twice", "succeeded")
    await outside.bus.append(first, 0)
    with pytest.raises(Conflict):  # another one for the same run
        await outside.bus.append(outside.bus.seal(asked, org="default"), 0)
    assert (await outside.types("twice")).count("run.started") == 1
    assert (shared_folder / "plain").read_text() == "x"


async def test_6_no_slot_leaks_and_what_does_not_run_says_why(place: Place, data: Path, shared_folder: Path) -> None:
    settings = {"MILLRACE_DATA": str(data / "executor"), "MILLRACE_SLOTS": "3", **sandbox_settings()}
    async with (
        running(place, "executor", **settings) as runtime,
        running(place, "events"),
        bus_of(place, "gateway") as bus,
    ):
        outside = Outside(place, bus)
        await deploy(outside)
        first = await outside.request("in_turn", input={"folder": str(shared_folder)})
        await started(shared_folder)
        assert (await outside.run(await outside.request("in_turn", input={"folder": ""}), "waiting")).blocked_on == "concurrency"
        others = [await outside.request("blocking", input={"folder": str(shared_folder)}) for _ in range(2)]
        for other in others:
            await outside.run(other, "running")
        assert (await outside.run(await outside.request("plain"), "queued")).blocked_on == "worker"
        for other in others:
            await cancel(outside, other)
            await outside.run(other, "cancelled")
        for _ in range(4):
            await outside.run(await outside.request("crashing"), "crashed")
        (shared_folder / "go").touch()
        await outside.run(first, "succeeded")

        async def nothing_is_held() -> bool:
            pool = runtime.health.document()["pool"]
            return not (pool["taken"] or pool["serving"] or pool["ending"] or await slots(place))

        await eventually(nothing_is_held)


async def test_7_what_is_sent_twice_is_one_run_and_of_a_burst_the_newest_stands(outside: Outside, shared_folder: Path) -> None:
    source = await outside.source()
    await outside.subscription(workflow="plain", input={"folder": str(shared_folder)})
    deliveries = [await outside.webhook(source, {"ref": "main"}, delivery="the-sender-s") for _ in range(3)]
    assert len(set(deliveries)) == 1
    delivery = await outside.delivery("the-sender-s", "routed")
    await outside.run(delivery.runs[0].id, "succeeded")
    burst = [
        await outside.request("newest", input={"folder": str(shared_folder), "name": "a", "number": number})
        for number in range(1, 4)
    ]
    assert (await outside.run(burst[-1], "succeeded")).result == 3
    ends = [(await outside.run(run, "cancelled")).status for run in burst[:-1]]
    assert ends == ["cancelled", "cancelled"]
    assert (shared_folder / "plain").read_text() == "x"


async def test_8_a_result_over_the_limit_is_a_clear_failure_and_lists_come_in_pages(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await deploy(outside)
        ended = await outside.run(await outside.request("enormous"), "failed")
        assert ended.error is not None
        assert any(figure.isdigit() for figure in ended.error.message), ended.error
        asked = {ended.id, *[await outside.request("plain") for _ in range(5)]}
        for run in asked:
            await outside.run(run, "succeeded", "failed")

        # An end may be told before its row is written.
        async def written() -> bool:
            page: RunList = await outside.bus.ask(ListRuns(org="default", page=Page(limit=100)))
            return {item.id for item in page.items} == asked

        await eventually(written)
        shown: list[str] = []
        cursor: str | None = None
        while True:
            page: RunList = await outside.bus.ask(ListRuns(org="default", page=Page(limit=2, cursor=cursor)))
            assert len(page.items) <= 2
            shown += [item.id for item in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert sorted(shown) == sorted(asked)


async def test_9_an_idle_worker_is_told_of_work_and_does_not_come_to_look_for_it(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await deploy(outside)
        waited = []
        for _ in range(10):
            ended = await outside.run(await outside.request("plain"), "succeeded")
            assert ended.queue_ms is not None
            waited.append(ended.queue_ms)
        # Whoever looks once in some seconds would not once in ten times be there at once.
        assert min(waited) < 1000, waited


async def test_10_what_is_missing_is_said_at_deployment_with_file_and_line(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        code = b"import os\nimport no_such_package\nfrom millrace import workflow\n\n\n@workflow\ndef broken():\n    pass\n"
        view = await outside.put_file("broken.py", code)
        assert [(problem.path, problem.line) for problem in view.problems] == [("broken.py", 2)]
        assert "no_such_package" in view.problems[0].message


async def test_11_a_run_out_of_memory_fails_alone(outside: Outside, shared_folder: Path) -> None:
    beside = await outside.request("held", input={"folder": str(shared_folder)})
    await started(shared_folder)
    for _ in range(3):
        ended = await outside.run(await outside.request("greedy"), "failed", "crashed")
        assert ended.reason == "oom"
    (shared_folder / "go").touch()
    assert (await outside.run(beside, "succeeded")).attempt == 1
    assert (await outside.types(beside)).count("run.started") == 1


def test_12_the_sandbox_is_on_unless_two_settings_say_that_it_is_not(place: Place, data: Path) -> None:
    given = place.environment("executor", MILLRACE_DATA=str(data))
    as_is = config.read(Environment(given))
    assert (as_is.unsafe, as_is.tier) == (False, None)
    environment = Environment(given | {"MILLRACE_SANDBOX_TIER": "none"})
    config.read(environment)
    with pytest.raises(ConfigError, match="MILLRACE_SANDBOX_TIER"):
        environment.check()


async def test_13_runs_that_have_ended_leave_nothing_that_grows_but_their_rows(place: Place, data: Path) -> None:
    async with river(place, data) as outside, bus_of(place, "admin") as admin:
        await deploy(outside)
        runs = [await outside.request("nap", concurrency_key="k") for _ in range(3)]
        for run in runs:
            await outside.recorded(run)
        for run in runs:
            folded = await fold(admin, run)
            assert folded is not None
            await purge(admin.client, run, folded.state.last_seq)
        info = await api_request(admin.client, "$JS.API.STREAM.INFO.RUNS", {"subjects_filter": "run.>"})
        assert not info["state"].get("subjects")

        async def no_turns() -> bool:
            return not await slots(place)

        await eventually(no_turns)
        for run in runs:
            assert (await outside.run(run, "succeeded")).attempt == 2


async def test_14_code_that_blocks_freezes_nobody_and_is_stopped(outside: Outside, shared_folder: Path) -> None:
    run = await outside.request("blocking", input={"folder": str(shared_folder)})
    late = await outside.request("blocking", input={"folder": str(shared_folder)}, timeout=0.5)
    await started(shared_folder)
    await outside.run(await outside.request("plain"), "succeeded")
    assert (await outside.run(late, "timed_out")).reason == "timeout"
    await cancel(outside, run)
    await outside.run(run, "cancelled")


async def test_15_output_in_no_encoding_leaves_no_run_stuck(outside: Outside) -> None:
    run = await outside.request("odd")
    ended = await outside.run(run, "succeeded", "failed")
    assert (ended.status, ended.error) == ("succeeded", None)

    async def told() -> set[str]:
        answer = await outside.bus.ask(ListLines(org="default", id=run))
        return {item.line.stream for item in answer.items}

    async def all_told() -> bool:
        return await told() >= {"stdout", "stderr", "log"}

    await eventually(all_told)
