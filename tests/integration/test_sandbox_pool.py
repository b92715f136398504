"""The pool of real children: who gets which child, and what becomes of all of them, whatever the runs do."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from services.executor.sandbox import attempt
from services.executor.sandbox.children import Children
from services.executor.sandbox.errors import SandboxUnavailable
from services.executor.sandbox.interface import Job, Outcome
from services.executor.sandbox.process import ChildLimits
from tests.support.inside import eventually
from tests.support.sandbox import GATED, TIERS, UID, Bench, Recorded, children_of, reachable_interpreter, started_bench, value

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(UID is not None and reachable_interpreter() is None, reason="no interpreter for the sandbox's user")


@pytest_asyncio.fixture(params=GATED)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with started_bench(kind=request.param, size=2, most=6) as made:
        yield made


async def test_no_job_ever_runs_in_a_child_that_was_placed_for_another_bundle(bench: Bench) -> None:
    jobs = [bench.job(f"@workflow\ndef main(): return {number}") for number in range(6)]

    async def ask(number: int, job: Job) -> None:
        for _ in range(60):
            assert value(await bench.children.run(job, Recorded())) == number

    await asyncio.gather(*(ask(number, job) for number, job in enumerate(jobs)))


HEAD = "import ctypes, os, signal, threading, time\n"
ENDS = {
    "succeeds": ("return 7", ("succeeded", None)),
    "raises": ("raise KeyError", ("failed", "error")),
    "crashes": ("ctypes.string_at(0)", ("crashed", "error")),
    "exits": ("os._exit(3)", ("crashed", "error")),
    "hangs": ("time.sleep(60)", ("timed_out", "timeout")),
    "ignores SIGTERM": ("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)", ("timed_out", "timeout")),
    "takes all memory": ("b'x' * (1 << 40)", ("failed", "oom")),
    "leaks descriptors": ("[os.open('/dev/null', 0) for _ in range(1000)]", ("failed", "error")),
    "forges a frame": ("os.write(3, b'\\xff' * 64); time.sleep(60)", ("crashed", "sandbox")),
    "leaves threads": ("[threading.Thread(target=time.sleep, args=(60,)).start() for _ in range(3)]", ("succeeded", None)),
    "floods": ("while True: os.write(1, bytes(65536))", ("failed", "limit")),
    "bombs": ("[os.fork() or time.sleep(60) for _ in range(100)]", ("failed", "limit")),
}
"""What a run does, and how it must end."""
WAITING = "@workflow\ndef main():\n    log.info('up')\n    time.sleep(60)"


class PoolMachine(RuleBasedStateMachine):
    """Does to one sandbox what runs, operators and the kernel do, in any order; after each step the pool must add up."""

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._runner.run(asyncio.sleep(0))
        self._before = descriptors(), children_of(os.getpid())
        self._stack = contextlib.AsyncExitStack()
        limits = ChildLimits(memory_mb=256, processes=40)
        self._bench = self._runner.run(self._stack.enter_async_context(started_bench(size=1, most=4, limits=limits)))
        self._jobs: dict[str, Job] = {}
        self._hanging: list[asyncio.Task[Outcome]] = []

    @property
    def _children(self) -> Children:
        return self._bench.children

    def _job(self, text: str, timeout: float = 20) -> Job:
        if text not in self._jobs:
            self._jobs[text] = self._bench.job(HEAD + text, timeout=timeout)
        return self._jobs[text]

    @rule(kind=st.sampled_from(sorted(ENDS)))
    def a_run_ends_in_its_way(self, kind: str) -> None:
        body, expected = ENDS[kind]
        if kind == "bombs" and (TIERS[0] == "B" or "pids" not in self._children.held):
            return
        is_stopped = expected[0] == "timed_out"
        job = self._job(f"@workflow\ndef main():\n    {body}", timeout=0.1 if is_stopped else 20)
        outcome = self._runner.run(self._children.run(job, Recorded()))
        assert (outcome.status, outcome.reason) == expected, outcome

    @rule(count=st.integers(2, 6))
    def several_bundles_run_at_once(self, count: int) -> None:
        async def all_of_them() -> list[object]:
            jobs = [self._job(f"@workflow\ndef main(): return {number}") for number in range(count)]
            return [value(one) for one in await asyncio.gather(*(self._children.run(job, Recorded()) for job in jobs))]

        assert self._runner.run(all_of_them()) == list(range(count))

    @precondition(lambda self: len(self._hanging) < 3)
    @rule()
    def a_long_run_begins(self) -> None:
        async def begun() -> None:
            into = Recorded()
            run = asyncio.create_task(self._children.run(self._job(WAITING, timeout=300), into))
            logged = asyncio.create_task(into.logged.wait())
            await asyncio.wait([run, logged], return_when=asyncio.FIRST_COMPLETED)
            logged.cancel()
            assert not run.done(), run.result()
            self._hanging.append(run)

        self._runner.run(begun())

    @precondition(lambda self: self._hanging)
    @rule()
    def a_long_run_is_given_up(self) -> None:
        async def cancelled() -> None:
            task = self._hanging.pop()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._runner.run(cancelled())

    @precondition(lambda self: self._hanging)
    @rule()
    def somebody_kills_the_process_of_a_long_run(self) -> None:
        async def killed() -> set[str]:
            for child in tuple(self._children._serving):
                os.kill(child.pid, signal.SIGKILL)
            ended = [(await task).status for task in self._hanging]
            self._hanging.clear()
            return set(ended)

        assert self._runner.run(killed()) == {"crashed"}

    @rule()
    def somebody_kills_those_that_wait(self) -> None:
        async def killed() -> None:
            for slot in self._children._pool.waiting:
                if slot.done() and slot.exception() is None and slot.result().usable:
                    os.kill(slot.result().pid, signal.SIGKILL)
                    await asyncio.shield(slot.result().exited)

        self._runner.run(killed())

    @rule()
    def somebody_kills_the_zygote(self) -> None:
        async def killed() -> list[object]:
            zygote = self._children._zygote
            assert zygote is not None
            if zygote.died.done():
                return []
            os.kill(zygote.pid, signal.SIGKILL)
            await asyncio.shield(zygote.died)
            ended = await asyncio.gather(*self._hanging, return_exceptions=True)
            self._hanging.clear()
            return list(ended)

        assert all(isinstance(end, SandboxUnavailable) for end in self._runner.run(killed()))

    @rule()
    def nobody_asks_for_long(self) -> None:
        self._children._pool._takes.clear()
        self._runner.run(asyncio.sleep(0.02))

    @invariant()
    def every_child_is_in_one_state_and_none_is_lost(self) -> None:
        self._runner.run(self._add_up())

    async def _add_up(self) -> None:
        children, pool = self._children, self._children._pool

        templates = children._templates
        assert templates is not None

        async def settled() -> bool:
            pools = [pool, *(one for _, one in templates.all)]
            for one in pools:
                one.tend()
            is_still = not children._ending and not templates._making and not templates._tasks
            return (
                is_still and all(slot.done() for one in pools for slot in one.waiting) and not any(one._retiring for one in pools)
            )

        await eventually(settled)
        counts = children.pool()
        assert (counts["serving"], counts["waiting"], counts["starting"]) == (len(self._hanging), 0, 0)
        assert 1 <= counts["blank"] + counts["placed"] <= counts["most"]
        pools = [pool, *(one for _, one in templates.all)]
        there = [slot.result() for one in pools for slot in one.waiting if slot.exception() is None]
        held = [child.cgroup for child in [*there, *children._serving] if child.cgroup is not None]
        assert len({id(group) for group in held}) == len(held)  # nobody shares one
        if children._cgroups is not None:
            assert len(children._cgroups._all) == len(children._cgroups._free) + len(held)
        assert children._zygote is not None
        if not children._zygote.died.done():
            births = sum(one.children for one in [children._zygote, *(template for template, _ in templates.all)])
            assert births == sum(child.usable for child in [*there, *children._serving])

    def teardown(self) -> None:
        async def ended() -> None:
            for task in self._hanging:
                task.cancel()
            await asyncio.gather(*self._hanging, return_exceptions=True)
            await self._stack.aclose()

        self._runner.run(ended())
        try:
            # The servers of other tests, whose own processes come and go, live below this one as well.
            assert (descriptors(), children_of(os.getpid())) == self._before
        finally:
            self._runner.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_the_pool_adds_up_whatever_happens_to_it_in_whatever_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "GRACE", 0.2)
    chosen = settings(max_examples=4, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(PoolMachine, settings=chosen)


SUPERVISOR = """
import asyncio, json, os
from tests.integration.test_sandbox_pool import HEAD, WAITING
from tests.support.sandbox import Recorded, below, started_bench

async def main():
    async with started_bench(size=2) as bench:
        into = Recorded()
        run = asyncio.create_task(bench.run(HEAD + WAITING, into))
        await into.logged.wait()
        groups = bench.children._cgroups
        folders = [] if groups is None else [str(tree.folder) for tree in groups._trees]
        print(json.dumps({"folder": str(bench.folder), "pids": sorted(below(os.getpid())), "groups": folders}), flush=True)
        await run

asyncio.run(main())
"""


async def test_a_killed_supervisor_takes_everything_along_and_the_next_clears_up_after_it() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SUPERVISOR),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"},
    )
    assert process.stdout is not None
    told = json.loads(await process.stdout.readline())
    folder = Path(told["folder"])
    try:
        assert len(told["pids"]) >= 3
        assert all(lives(pid) for pid in told["pids"])
        process.kill()
        await process.wait()

        async def gone() -> bool:
            return not any(lives(pid) for pid in told["pids"])

        await eventually(gone)
        scratch = folder / "executor" / "scratch"
        assert list(scratch.iterdir())
        interpreter = None if UID is None else reachable_interpreter()
        children = Children(folder / "executor", uid=UID, size=1, interpreter=interpreter, tiers=TIERS[:1])
        await children.start()
        assert children._ground is not None
        assert list(scratch.iterdir()) == [children._ground.scratch]
        assert not any(Path(group).exists() for group in told["groups"])
        await children.close()
    finally:
        shutil.rmtree(folder)


def lives(pid: int) -> bool:
    """Whether a process is more than a zombie: whose zombie it is when its parent is dead, is not ours to say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
