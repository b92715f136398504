"""One process forks every child: what it must not leave behind, and what its death may not be taken for."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from millrace._runtime.networks import _MOST as MOST_NETWORKS
from services.executor.sandbox import birth, fork_server
from services.executor.sandbox.children import Children
from services.executor.sandbox.errors import SandboxUnavailable
from services.executor.sandbox.interface import Outcome
from services.executor.sandbox.pool import ChildPool
from services.executor.sandbox.template import Template
from tests.support.sandbox import FORKING, OF_A, TEMPLATES, UID, Bench, Recorded, below, reachable_interpreter, started_bench, value

pytestmark = pytest.mark.skipif(
    UID is not None and reachable_interpreter() is None, reason="no interpreter that the sandbox's user can read"
)

WAITS = "import asyncio, os\n@workflow\nasync def main():\n    log.info('up', pid=os.getpid())\n    await asyncio.sleep(60)"


@pytest_asyncio.fixture(params=FORKING)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with started_bench(kind=request.param, size=2, most=2) as made:
        yield made


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def children_of(pid: int) -> set[int]:
    return {int(number) for task in Path(f"/proc/{pid}/task").iterdir() for number in (task / "children").read_text().split()}


def lives(pid: int) -> bool:
    """Whether there is still anything of a process, be it a zombie."""
    return Path(f"/proc/{pid}").exists()


def works(pid: int) -> bool:
    """Whether a process is more than a zombie; whose zombie it is when the zygote is dead, is not ours to say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until(claim: object, seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not claim():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not come true in time"
        await asyncio.sleep(0.005)


def zygote_of(bench: Bench) -> int:
    assert bench.children._zygote is not None
    return bench.children._zygote.pid


def of_templates(bench: Bench) -> list[tuple[Template, ChildPool]]:
    """The templates, each with the pool of its children."""
    return [] if bench.children._templates is None else bench.children._templates.all


async def started(bench: Bench, body: str) -> tuple["asyncio.Task[Outcome]", Recorded]:
    """A run that has logged its first line."""
    into = Recorded()
    running = asyncio.create_task(bench.children.run(bench.job(body), into))
    await asyncio.wait([running, asyncio.ensure_future(into.logged.wait())], return_when=asyncio.FIRST_COMPLETED)
    assert into.logs, running.result()
    return running, into


async def test_a_killed_zygote_gives_its_runs_back_and_the_next_has_a_new_one(bench: Bench) -> None:
    first = zygote_of(bench)
    runs = [await started(bench, WAITS) for _ in range(3)]
    parent = "template" if of_templates(bench) else "zygote"
    pids = [child.pid for child in bench.children._serving]
    os.kill(first, signal.SIGKILL)
    for running, _ in runs:
        with pytest.raises(SandboxUnavailable, match=f"the {parent} died"):
            await running
    assert len(pids) == 3
    assert not any(works(pid) for pid in pids)
    assert value(await bench.run("@workflow\ndef main(): return 1")) == 1
    assert zygote_of(bench) != first


async def test_a_killed_zygote_takes_children_along_that_refuse_to_die_with_it(bench: Bench) -> None:
    body = """
        import asyncio, ctypes, os
        @workflow
        async def main():
            ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
            log.info("up", pid=os.getpid())
            await asyncio.sleep(60)
    """
    running, _ = await started(bench, body)
    (pid,) = bench.tree
    os.kill(zygote_of(bench), signal.SIGKILL)
    with pytest.raises(SandboxUnavailable):
        await running
    assert not works(pid)


async def test_an_answer_that_came_before_the_zygotes_death_counts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "START", 2.0)  # a first job waits so long for a template, where it is to have one
    os.kill(zygote_of(bench), signal.SIGSTOP)  # it can tell nothing any more, but the warm child answers
    outcome = await bench.run("@workflow\ndef main(): return 'done'")
    os.kill(zygote_of(bench), signal.SIGKILL)
    assert value(outcome) == "done"
    assert outcome.usage.max_rss_mb > 5


async def test_a_stopped_zygote_is_replaced(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "START", 2.0)
    monkeypatch.setattr(birth, "_REPORT", 0.3)
    first = zygote_of(bench)
    os.kill(first, signal.SIGSTOP)
    assert value(await bench.run("@workflow\ndef main(): return 1")) == 1
    await until(lambda: not lives(first))
    assert value(await bench.run("@workflow\ndef main(): return 2")) == 2


async def test_a_daemon_is_gone_when_the_run_is(bench: Bench) -> None:
    body = """
        import os, time
        def detached():
            ours, theirs = os.pipe()
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.write(theirs, str(os.getpid()).encode())
                    time.sleep(60)
                os._exit(0)
            os.wait()
            return int(os.read(ours, 20))
        @workflow
        def main():
            pids = [detached() for _ in range(5)]
            time.sleep(0.05)
            for pid in pids: os.kill(pid, 0)  # not before its time: raises if it were gone
            log.info("up")
            time.sleep(0.1)
    """
    running, _ = await started(bench, body)
    pids = bench.tree
    assert len(pids) == 6
    assert value(await running) is None
    while bench.children._ending:
        await asyncio.wait(bench.children._ending)
    assert not any(lives(pid) for pid in pids)


async def test_daemons_of_daemons_are_gone_when_a_cancelled_run_is(bench: Bench) -> None:
    body = """
        import ctypes, os, time
        @workflow
        def main():
            ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)  # adopts no orphans any more: they fall to the zygote at once
            ours, theirs = os.pipe()
            for _ in range(4):
                if os.fork() == 0:
                    os.setsid()
                    for _ in range(3):
                        if os.fork() == 0: os.setsid()
                    os.write(theirs, b"%d " % os.getpid())
                    time.sleep(60)
            told = b""
            while told.count(b" ") < 4 * 8: told += os.read(ours, 4096)
            log.info("up")
            time.sleep(60)
    """
    running, _ = await started(bench, body)
    pool = bench.children._pool
    await until(lambda: len(pool.waiting) == 2 and all(slot.done() for slot in pool.waiting))
    apart = [pool, *(pool for _, pool in of_templates(bench))]
    await until(lambda: all(slot.done() for pool in apart for slot in pool.waiting))
    pids = below(zygote_of(bench)) - {slot.result().pid for pool in apart for slot in pool.waiting}
    pids -= {template.pid for template, _ in of_templates(bench)}
    assert len(pids) == 33
    assert all(lives(pid) for pid in pids)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not any(lives(pid) for pid in pids)


async def test_the_daemons_of_one_run_do_not_end_another(bench: Bench) -> None:
    body = """
        import subprocess, asyncio
        @workflow
        async def main():
            inner = subprocess.run(["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True)
            log.info("up")
            await asyncio.sleep(60)
    """
    running, _ = await started(bench, body)
    (child,) = bench.children._serving
    (pid,) = below(child.pid)
    assert value(await bench.run("import os\n@workflow\ndef main():\n    if os.fork() == 0: os._exit(0)\n    return 1")) == 1
    await asyncio.sleep(0.1)
    assert lives(pid)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not lives(pid)


async def test_usage_counts_processes_that_the_run_waited_for(bench: Bench) -> None:
    body = """
        import subprocess, sys
        BUSY = "import time; x = bytearray(60 << 20)\\nwhile time.process_time() < 0.2: pass"
        @workflow
        def main(): subprocess.run([sys.executable, "-I", "-S", "-c", BUSY], check=True)
    """
    outcome = await bench.run(body)
    assert value(outcome) is None
    assert outcome.usage.cpu_ms >= 200
    assert outcome.usage.max_rss_mb >= 60


async def test_usage_counts_the_runs_own_work_and_not_the_wait_for_it(bench: Bench) -> None:
    quick = await bench.run("@workflow\ndef main(): pass")
    busy = await bench.run("import time\n@workflow\ndef main():\n    while time.process_time() < 0.25: pass")
    assert quick.usage.cpu_ms < 100 <= busy.usage.cpu_ms
    grown = await bench.run("@workflow\ndef main(): return len(b'x' * (70 << 20))")
    assert quick.usage.max_rss_mb < 60
    assert grown.usage.max_rss_mb > 70


async def test_a_run_sees_nothing_of_zygote_and_siblings(bench: Bench) -> None:
    running, _ = await started(bench, WAITS)
    body = """
        import gc, os, sys
        @workflow
        def main():
            frames, frame = [], sys._getframe()
            while frame is not None:
                frames.append(frame.f_code.co_name)
                frame = frame.f_back
            return {
                "frames": frames, "argv": sys.argv[1:],
                "zygotes": [one for one in gc.get_objects() if type(one).__name__ == "Zygote"],
                "sockets": [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                            if os.path.exists(f"/proc/self/fd/{fd}")].count("socket"),
                "group": [os.getsid(0), os.getpgrp()] == [os.getpid()] * 2,
            }
    """
    found = value(await bench.run(body))
    assert isinstance(found, dict)
    assert "attend" not in found["frames"]
    assert (found["argv"], found["zygotes"], found["group"]) == ([], [], True)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("kind", OF_A)
async def test_two_thousand_runs_leave_no_process_no_descriptor_and_no_file(kind: str) -> None:
    before = descriptors(), children_of(os.getpid())
    async with started_bench(kind=kind, size=4, most=4) as bench:
        job = bench.job("@workflow\ndef main(): pass")
        left = iter(range(2000))

        async def work() -> None:
            for _ in left:
                assert (await bench.children.run(job, Recorded())).status == "succeeded"

        await asyncio.gather(*(work() for _ in range(16)))
        while bench.children._ending:
            await asyncio.wait(bench.children._ending)
        warm = {(await slot).pid for slot in bench.children._pool.waiting}
        zygote = zygote_of(bench)
        templates = {template.pid for template, _ in of_templates(bench)}
        assert len(warm) == 4
        assert len(templates) == (kind == TEMPLATES)
        await until(lambda: children_of(zygote) == warm | templates)
        assert_holds_nothing(zygote, len({0, 1, 2, 3, "wakes", "waker", "own PID namespace"}))
        for template, pool in of_templates(bench):
            pool._takes.clear()  # as if nobody had asked for long
            await until(lambda pool=pool: pool.tend() or len(pool.waiting) == 2)
            ahead = {(await slot).pid for slot in pool.waiting}
            await until(lambda template=template, ahead=ahead: children_of(template.pid) == ahead)
            places = {0, 1, 2, 3, "root", "devices", "own PID namespace"}
            assert_holds_nothing(template.pid, len(places) + len(ahead))  # and a pidfd for each child
            assert len(ahead) == 2
            await until(lambda template=template: len(template._births) == 2)  # its reports follow the deaths
        assert bench.children._zygote is not None
        await until(lambda: len(bench.children._zygote._births) == 4)
        assert bench.children._ground is not None
        assert os.listdir(bench.children._ground.scratch) == []  # children of this tier have theirs in memory
    assert (descriptors(), children_of(os.getpid())) == before
    assert not lives(zygote)


def assert_holds_nothing(pid: int, beside: int) -> None:
    """Assert that a process that forks holds so many descriptors, and those of networks that are lent or kept."""
    if os.geteuid() == 0:  # nobody else may look
        held = [str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir()]
        networks = [one for one in held if one.startswith("net:") or "/net/" in one]
        assert len(held) - len(networks) == beside, held
        # Its own, those that are kept, and those of children that wait for their run.
        assert len({one for one in networks if one.startswith("net:")}) <= 1 + MOST_NETWORKS + 4


async def test_an_interpreter_that_cannot_run_is_told_in_its_own_words(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for step in tmp_path.parents[:2]:
        step.chmod(0o755)
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'no library' >&2\nexit 3\n")
    broken.chmod(0o755)
    before = descriptors()
    with pytest.raises(SandboxUnavailable, match=r"code 3; it said: no library"):
        await Children(tmp_path / "data", uid=None, interpreter=broken).start()
    assert descriptors() == before
