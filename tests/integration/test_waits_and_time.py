"""What a coroutine does around its waits: time-outs of its own, other work beside them, lines before them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shared import aggregate
from shared.envelope import utc_now
from shared.messages import RunWaiting
from shared.questions.runs import ListLines, ListSteps, StepList
from tests.integration.test_durable import signal
from tests.support.inside import eventually
from tests.support.river import COUNT, Outside, standing
from tests.support.servers import Servers

WORKFLOWS = (
    COUNT
    + b"""
import asyncio
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from millrace import log, runs, sleep, step, wait_for, workflow


@workflow
async def limited(how: str, seconds: float = 2.5, after: float | str = 0) -> list:
    said = []
    began = time.monotonic()
    try:
        if how == "timeout":
            async with asyncio.timeout(seconds):
                await wait_for("go")
        elif how == "wait_for":
            await asyncio.wait_for(wait_for("go"), seconds)
        elif how == "shield":
            await asyncio.wait_for(asyncio.shield(wait_for("go")), seconds)
        elif how == "gather":
            async with asyncio.timeout(seconds):
                await asyncio.gather(wait_for("go"), wait_for("stop"))
        elif how == "group":
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                group.create_task(wait_for("go"))
        elif how == "wait":
            task = asyncio.create_task(wait_for("go"))
            done, pending = await asyncio.wait([task], timeout=seconds)
            said += [len(done), len(pending)]
            raise TimeoutError
        elif how == "sleep":
            async with asyncio.timeout(seconds):
                await sleep(3600)
        elif how == "child":
            async with asyncio.timeout(seconds):
                await runs.call("for_ever")
        elif how == "cancel":
            task = asyncio.create_task(wait_for("go"))
            await sleep(seconds)
            task.cancel()
            await task
    except TimeoutError:
        said.append("TimeoutError")
    except asyncio.CancelledError:
        said.append("CancelledError")
    said.append(await step("between", int, 7))
    if after:
        await (wait_for(after) if isinstance(after, str) else sleep(after))
        said.append("later")
    return said


@workflow
async def for_ever() -> None:
    await wait_for("never")


@workflow
async def in_time(folder: str) -> list:
    count(folder, "attempts")
    async with asyncio.timeout(3600):
        first = await step("first", count, folder, "first")
        await sleep(1.2)
        answer = await wait_for("go")
    return [first, answer.data]


def mail(folder: str) -> None:
    time.sleep(0.5)
    count(folder, "mail")


async def mailed(folder: str, how: str) -> None:
    if how == "asyncio":
        await asyncio.sleep(0.5)
        count(folder, "mail")
    elif how == "thread":
        await asyncio.to_thread(mail, folder)
    elif how == "socket":
        served = asyncio.Event()

        async def serve(reader, writer) -> None:
            await asyncio.sleep(0.5)
            writer.write(b"sent")
            writer.close()

        path = os.path.join(os.environ.get("TMPDIR", "/tmp"), "mail.sock")
        server = await asyncio.start_unix_server(serve, path)
        reader, writer = await asyncio.open_unix_connection(path)
        assert await reader.read() == b"sent"
        writer.close()
        server.close()
        count(folder, "mail")


@workflow
async def beside(folder: str, how: str) -> str:
    if how == "own thread":
        threading.Thread(target=mail, args=(folder,)).start()
        return (await wait_for("approval")).data
    if how == "pool":
        ThreadPoolExecutor(1).submit(mail, folder)
        return (await wait_for("approval")).data
    if how == "task":
        task = asyncio.create_task(mailed(folder, "asyncio"))
        return (await wait_for("approval")).data
    _, answer = await asyncio.gather(mailed(folder, how), wait_for("approval"))
    return answer.data


@workflow
def plainly_beside(folder: str) -> str:
    threading.Thread(target=mail, args=(folder,)).start()
    return wait_for.sync("approval").data


@workflow
async def idle_company() -> str:
    queue = asyncio.Queue()

    async def worker() -> None:
        while True:
            await queue.get()

    workers = [asyncio.create_task(worker()) for _ in range(3)]
    await asyncio.to_thread(int)
    return (await asyncio.shield(wait_for("approval"))).data


@workflow(timeout=20)
async def in_a_step(how: str) -> object:
    async def inner() -> object:
        if how == "sleep":
            await sleep(1.5)
            return "slept"
        if how == "long":
            return await sleep(3600)
        if how == "signal":
            return (await wait_for("go")).data
        if how == "step":
            return await step("inner", int, 5)
        return await runs.call("for_ever")

    first = await step("a", inner)
    again = await step("inner", int, 6)
    await sleep(1.2)
    return [first, again, await step("inner", int, 7)]


@workflow(timeout=20)
async def exhausted(how: str) -> None:
    if how == "step":
        await step("first", next, iter([]))
    await asyncio.to_thread(next, iter([]))


@workflow(retries=1, retry_delay=0.01)
async def talkative(fail: bool = False) -> list:
    log.info("begun")
    print("printed one")
    first = await step("first", lambda: print("in the step") or 1)
    log.info("after first")
    answer = await wait_for("go")
    log.info("after go", data=answer.data)
    os.write(2, b"raw two\\n")
    await sleep(1.2)
    print("printed three")
    if fail and not await step("failed", lambda: False):
        fails = os.environ.setdefault("FAILS", "1")
        log.info("about to fail")
        raise OSError("once more")
    return [first]


@workflow
def hostile_lines() -> int:
    sys.stdout.buffer.write(b"not \\xff utf-8\\n")
    print("nul \\0")
    print("half \\ud800")
    print("x" * 300_000)
    os.write(1, b"no end of line")
    endless = []
    endless.append(endless)
    for odd in (object, float("nan"), "\\0", endless, 10**400, b"\\xff", {"a\\0": {1}}):
        log.info("odd", field=odd)
    log.info("\\ud800" * 5000, **{f"f{n}": ["y" * 20_000] * 50 for n in range(100)})
    return 1


@workflow
async def talk_beside() -> None:
    async def one(name: str) -> None:
        log.info("begun", name=name)
        await wait_for(name)
        log.info("first", name=name)
        await wait_for(name)
        log.info("second", name=name)

    await asyncio.gather(one("a"), one("b"))


@workflow
async def raced() -> list:
    one, other = asyncio.create_task(wait_for("a")), asyncio.create_task(wait_for("b"))
    done, pending = await asyncio.wait([one, other], return_when=asyncio.FIRST_COMPLETED)
    first = done.pop().result().data
    await sleep(1.2)
    return [len(done), first, (await pending.pop()).data]
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


async def waits(outside: Outside, run: str) -> list[RunWaiting]:
    """Return all that a run has said of its waits, be they over or not."""
    history = [stored.message() async for stored in aggregate.history(outside.bus.client, "run", run)]
    return [one for one in history if isinstance(one, RunWaiting)]


async def lines(outside: Outside, run: str) -> list[str]:
    found = await outside.bus.ask(ListLines(org="default", id=run, settled=True))
    return [one.line.message + "".join(f" {value}" for value in (one.line.fields or {}).values()) for one in found.items]


HOWS = ["timeout", "wait_for", "shield", "gather", "group", "wait", "sleep", "child"]


async def test_a_time_out_of_the_author_s_own_ends_a_wait_in_time_and_for_good(outside: Outside) -> None:
    runs = {how: await outside.request("limited", input={"how": how, "after": 1.5}) for how in HOWS}
    for how, run in runs.items():
        # One that came too late is heard by nobody, however often the workflow comes by.
        ended = await outside.run(run, "succeeded")
        assert ended.result == [*([0, 1] if how == "wait" else []), "TimeoutError", 7, "later"], how
        assert ended.error is None
        waited = await waits(outside, run)
        assert waited, how
        assert all(one.until is not None for one in waited), how


async def test_a_signal_after_the_time_out_changes_nothing_any_more(outside: Outside) -> None:
    run = await outside.request("limited", input={"how": "timeout", "seconds": 1.5, "after": "end"})

    async def given_up() -> list[RunWaiting] | None:
        return found if len(found := await waits(outside, run)) == 2 else None

    first, second = await eventually(given_up)  # type: ignore[misc]
    requested = (await outside.run(run, "waiting")).requested_at
    assert timedelta(seconds=0.5) < datetime.fromisoformat(first.until) - datetime.fromisoformat(requested)
    assert datetime.fromisoformat(first.until) < utc_now() + timedelta(seconds=1)
    assert second.until is None
    await signal(outside, run, "go", "too late")
    await signal(outside, run, "end")
    assert (await outside.run(run, "succeeded")).result == ["TimeoutError", 7, "later"]


async def test_a_signal_before_the_time_out_is_heard(outside: Outside) -> None:
    run = await outside.request("limited", input={"how": "timeout", "seconds": 3600, "after": 1.2})
    assert (await outside.run(run, "waiting")).until is not None
    await signal(outside, run, "go", "now")
    assert (await outside.run(run, "succeeded")).result == [7, "later"]


async def test_a_waiting_task_that_is_cancelled_is_given_up(outside: Outside) -> None:
    run = await outside.request("limited", input={"how": "cancel", "seconds": 1.2, "after": 1.2})
    assert (await outside.run(run, "succeeded")).result == ["CancelledError", 7, "later"]


async def test_the_steps_of_a_run_say_how_a_wait_without_a_result_ended(outside: Outside) -> None:
    run = await outside.request("limited", input={"how": "timeout", "seconds": 0.5})
    await outside.run(run, "succeeded")

    async def recorded() -> list[tuple[str, Any, bool, bool]] | None:
        listed: StepList = await outside.bus.ask(ListSteps(org="default", id=run))
        return [(one.name, one.result, one.timed_out, one.given_up) for one in listed.items if one.kind == "signal"] or None

    assert await eventually(recorded) == [("go", None, False, True)]


async def test_a_time_out_goes_on_over_all_attempts_and_beside_steps(outside: Outside, shared_folder: Path) -> None:
    run = await outside.request("in_time", input={"folder": str(shared_folder)})
    waiting = await outside.run(run, "waiting")

    async def for_go() -> Any:
        view = await outside.run(run, "waiting")
        return view if view.blocked_on == "signal" else None

    waiting = await eventually(for_go)
    assert waiting.until is not None
    left = datetime.fromisoformat(waiting.until) - datetime.fromisoformat(waiting.started_at)
    assert timedelta(seconds=3598) < left < timedelta(seconds=3660)
    await signal(outside, run, "go", 5)
    assert (await outside.run(run, "succeeded")).result == [1, 5]


async def test_what_else_goes_on_is_finished_before_the_run_waits(outside: Outside, shared_folder: Path) -> None:
    for sent, how in enumerate(["asyncio", "thread", "own thread", "pool", "task"], start=1):
        run = await outside.request("beside", input={"folder": str(shared_folder), "how": how})
        await outside.run(run, "waiting")
        assert (shared_folder / "mail").read_text() == "x" * (2 * sent - 1), how
        await signal(outside, run, "approval", how)
        assert (await outside.run(run, "succeeded")).result == how
        # Outside of a step it is done once per attempt.
        (shared_folder / "mail").write_text("x" * 2 * sent)


async def test_a_plain_function_lets_its_threads_finish(outside: Outside, shared_folder: Path) -> None:
    run = await outside.request("plainly_beside", input={"folder": str(shared_folder)})
    await outside.run(run, "waiting")
    assert (shared_folder / "mail").read_text() == "x"
    await signal(outside, run, "approval", 1)
    assert (await outside.run(run, "succeeded")).result == 1


async def test_what_only_waits_for_others_keeps_no_run_from_waiting(outside: Outside) -> None:
    run = await outside.request("idle_company")
    await outside.run(run, "waiting")
    await signal(outside, run, "approval", 1)
    assert (await outside.run(run, "succeeded")).result == 1


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("long", "step 'a' sleeps for longer than a minute"),
        ("signal", "step 'a' waits for the signal 'go'"),
        ("run", "step 'a' waits for a run"),
    ],
)
async def test_a_wait_within_a_step_says_at_once_what_to_do(outside: Outside, how: str, said: str) -> None:
    ended = await outside.run(await outside.request("in_a_step", input={"how": how}), "failed")
    assert ended.error is not None
    assert ended.error.type == "RuntimeError"
    assert said in ended.error.message
    assert "Wait outside of steps" in ended.error.message


async def test_a_short_sleep_and_another_step_within_a_step_work(outside: Outside) -> None:
    slept = await outside.request("in_a_step", input={"how": "sleep"})
    inner = await outside.request("in_a_step", input={"how": "step"})
    assert (await outside.run(slept, "succeeded")).result == ["slept", 6, 7]
    assert (await outside.run(inner, "succeeded")).result == [5, 6, 7]


@pytest.mark.parametrize("how", ["step", "thread"])
async def test_an_exhausted_iterator_in_a_thread_is_an_error(outside: Outside, how: str) -> None:
    ended = await outside.run(await outside.request("exhausted", input={"how": how}), "failed")
    assert ended.error is not None
    assert ended.error.type == "RuntimeError"
    assert ended.error.message.endswith("raised StopIteration")


async def test_lines_of_an_earlier_attempt_are_not_said_again(outside: Outside) -> None:
    run = await outside.request("talkative")
    await outside.run(run, "waiting")
    await signal(outside, run, "go", 5)
    await outside.run(run, "succeeded")
    assert sorted(await lines(outside, run)) == sorted(
        ["begun", "printed one", "in the step", "after first", "after go 5", "raw two", "printed three"]
    )


async def test_a_retry_says_anew_what_comes_after_the_last_step_that_is_done(outside: Outside) -> None:
    run = await outside.request("talkative", input={"fail": True})
    await outside.run(run, "waiting")
    await signal(outside, run, "go", 5)
    await outside.run(run, "failed")
    said = await lines(outside, run)
    assert said.count("begun") == said.count("printed three") == said.count("after go 5") == said.count("raw two") == 1
    assert said.count("about to fail") == 2


async def test_lines_of_tasks_beside_each_other_are_said_once_each(outside: Outside) -> None:
    run = await outside.request("talk_beside")
    for name in "baab":
        await outside.run(run, "waiting")
        await signal(outside, run, name)
    await outside.run(run, "succeeded")
    assert sorted(await lines(outside, run)) == sorted(f"{what} {name}" for what in ("begun", "first", "second") for name in "ab")


async def test_of_two_waits_the_one_that_was_over_first_stays_the_first(outside: Outside) -> None:
    run = await outside.request("raced")
    await outside.run(run, "waiting")
    await signal(outside, run, "b", "second task")

    async def slept() -> bool:
        return (await outside.types(run)).count("run.waiting") >= 2

    await eventually(slept)
    await signal(outside, run, "a", "first task")
    assert (await outside.run(run, "succeeded")).result == [0, "second task", "first task"]


async def test_lines_are_kept_whatever_they_hold(outside: Outside) -> None:
    run = await outside.request("hostile_lines")
    assert (await outside.run(run, "succeeded")).result == 1
    said = await lines(outside, run)
    assert "not \ufffd utf-8" in said
    assert "nul \ufffd" in said
    assert "half \\ud800" in said
    assert "no end of line" in said
    assert sum(line.count("x") for line in said if set(line) == {"x"}) == 300_000
    assert sum(line.startswith("odd") for line in said) == 7
    assert any(line.startswith("\ufffd" * 1000) for line in said)
