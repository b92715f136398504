"""What a run leaves lying about: files of every kind, threads, processes. Nothing of it delays its end or outlives it."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.executor.sandbox import attempt
from tests.support.sandbox import FORKING, KINDS, UID, Bench, Recorded, below, reachable_interpreter, started_bench, value

pytestmark = pytest.mark.skipif(UID is not None and reachable_interpreter() is None, reason="no interpreter for the sandbox's user")


@pytest_asyncio.fixture(params=KINDS)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with started_bench(kind=request.param) as made:
        yield made


@pytest.mark.parametrize("kind", FORKING)
async def test_links_pipes_and_sparse_files_that_a_run_leaves_are_removed_and_not_followed(kind: str) -> None:
    text = """
        import os
        @workflow
        def main(folder: str, file: str):
            os.symlink(folder, "folder"); os.symlink(file, "file"); os.symlink("/", "root")
            os.mkfifo("fifo")
            with open("sparse", "wb") as one: one.truncate(1 << 40)
            os.makedirs("closed/inside"); open("closed/inside/x", "w").close()
            os.chmod("closed/inside", 0); os.chmod("closed", 0)
            os.makedirs("/".join(["deep"] * 200))
            return sorted(os.listdir("."))
    """
    async with started_bench(kind=kind) as bench:
        folder = bench.folder / "kept"
        folder.mkdir(mode=0o777)
        (folder / "canary").write_text("whole")
        found = value(await bench.run(text, folder=str(folder), file=str(folder / "canary")))
        assert found == ["closed", "deep", "fifo", "file", "folder", "root", "sparse"]
        while bench.children._ending:
            await asyncio.wait(bench.children._ending)
        assert (folder / "canary").read_text() == "whole"
        assert bench.children._ground is not None
        waiting = len(bench.children._pool.waiting)
        left = os.listdir(bench.children._ground.scratch)
        assert len(left) <= (0 if "A" in KINDS[kind]["tiers"] else waiting)


async def test_threads_that_are_left_neither_delay_the_end_nor_have_a_say(bench: Bench) -> None:
    text = """
        import os, threading, time
        def late():
            time.sleep(0.2)
            os.write(3, (40).to_bytes(4, "big") + b'{"kind":"result","result":"from thread"}')
        @workflow
        def main():
            for target in (late, lambda: time.sleep(60)): threading.Thread(target=target).start()
            return "from main"
    """
    began = time.monotonic()
    assert value(await bench.run(text)) == "from main"
    assert time.monotonic() - began < 50


async def test_what_an_object_would_do_when_unpickled_is_never_asked(bench: Bench) -> None:
    text = """
        import os
        class Hostile:
            def __reduce__(self): return os._exit, (9,)
            def __json__(self): os._exit(9)
        @workflow
        def main(): return {"a": Hostile()}
    """
    outcome = await bench.run(text)
    assert outcome.error is not None
    assert (outcome.status, outcome.error.type) == ("failed", "ResultError")


@pytest.mark.parametrize("kind", FORKING)
async def test_a_time_out_ends_the_whole_tree_after_the_grace(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert attempt.GRACE == 5.0
    monkeypatch.setattr(attempt, "GRACE", 0.5)
    text = """
        import os, signal, time
        @workflow
        def main():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            for _ in range(3):
                if os.fork() == 0:
                    os.setsid()
                    while True: time.sleep(1)
            log.info("up")
            while True: time.sleep(1)
    """
    async with started_bench(kind=kind) as bench:
        into = Recorded()
        running = asyncio.create_task(bench.children.run(bench.job(text, timeout=5.0), into))
        await into.logged.wait()
        (child,) = bench.children._serving
        tree = {child.pid} | below(child.pid)
        assert len(tree) == 4
        outcome = await running
        assert (outcome.status, outcome.reason) == ("timed_out", "timeout")
        while bench.children._ending:
            await asyncio.wait(bench.children._ending)
        assert not any(Path(f"/proc/{pid}").exists() for pid in tree)
