"""What honest code finds inside: the libraries' needs, its own way out, and limits that are told by name."""

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.executor.sandbox import memory
from services.executor.sandbox.process import ChildLimits, CodePaths
from tests.support.inside import eventually
from tests.support.sandbox import (
    FORKING,
    GATED,
    OF_A,
    TEMPLATES,
    TIERS,
    UID,
    Bench,
    Recorded,
    reachable_interpreter,
    started_bench,
    value,
)

pytestmark = pytest.mark.skipif(
    UID is not None and reachable_interpreter() is None, reason="no interpreter that the sandbox's user can read"
)
needs_a = pytest.mark.skipif(TIERS[0] != "A", reason="this machine forbids namespaces")


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=GATED)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with started_bench(kind=request.param) as made:
        yield made


async def test_asyncio_threads_and_pools_work(bench: Bench) -> None:
    text = """
        import asyncio, concurrent.futures, queue, threading
        @workflow
        async def main():
            loop = asyncio.get_running_loop()
            one = await loop.run_in_executor(None, sum, [1, 2])
            with concurrent.futures.ThreadPoolExecutor(8) as pool: two = sum(pool.map(len, ["a"] * 50))
            async with asyncio.timeout(60): three = await asyncio.gather(*(asyncio.sleep(0.01, n) for n in range(20)))
            told = queue.Queue()
            thread = threading.Thread(target=told.put, args=(4,)); thread.start(); thread.join()
            return [one, two, len(three), told.get()]
    """
    assert value(await bench.run(text)) == [3, 50, 20, 4]


async def test_no_two_runs_draw_the_same_random_numbers(bench: Bench) -> None:
    """Runs are forks of one process, and may even have the same number: none may start from a state that it shares."""
    text = """
        import random, secrets, ssl, tempfile, uuid
        @workflow
        def main():
            drawn = [random.random(), ssl.RAND_bytes(8).hex(), uuid.uuid4().hex, secrets.token_hex(8)]
            return [*drawn, next(tempfile._get_candidate_names())]
    """
    drawn = [value(await bench.run(text)) for _ in range(4)]
    assert all(len(set(kind)) == 4 for kind in zip(*drawn, strict=True))


async def test_what_libraries_look_for_is_there(bench: Bench) -> None:
    text = """
        import array, ctypes, decimal, hashlib, locale, mmap, os, pwd, random, sqlite3, ssl, time, uuid, zoneinfo
        @workflow
        def main():
            room = mmap.mmap(-1, 8 << 20)
            room[:3] = b"abc"
            database = sqlite3.connect(":memory:")
            compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(lambda _: 7)
            return [
                bytes(room[:3]).decode(), database.execute("SELECT 6 * 7").fetchone()[0], compare(None),
                ssl.create_default_context().verify_mode.name, str(zoneinfo.ZoneInfo("UTC")), hashlib.sha256(b"x").hexdigest()[:4],
                len(os.urandom(8)), random.SystemRandom().random() < 1, os.cpu_count() > 0, uuid.uuid4().version,
            ]
    """
    assert value(await bench.run(text)) == ["abc", 42, 7, "CERT_REQUIRED", "UTC", "2d71", 8, True, True, 4]


@pytest.mark.parametrize("kind", OF_A)
async def test_subprocesses_temporary_files_and_multiprocessing_work_in_tier_a(kind: str) -> None:
    text = """
        import asyncio, multiprocessing, os, subprocess, sys, tempfile
        from pathlib import Path
        @workflow
        async def main():
            said = subprocess.run(["sh", "-c", "echo $((6 * 7))"], capture_output=True, text=True, check=True).stdout.strip()
            inner = subprocess.run([sys.executable, "-c", "import json, ssl; print(json.dumps(1))"], capture_output=True, text=True)
            other = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
            echoed, _ = await other.communicate(b"echo")
            with tempfile.NamedTemporaryFile("w+") as file:
                file.write("kept"); file.flush()
                kept = Path(file.name).read_text()
            context = multiprocessing.get_context("fork")
            with context.Pool(2) as pool: squares = pool.map(abs, [-1, -2])
            Path(tempfile.gettempdir(), "one").write_text("x")
            data = (Path(__file__).resolve().parent / "one.py").exists()
            listed = os.listdir(tempfile.gettempdir())
            return [said, inner.stdout.strip() or inner.stderr, echoed.decode(), kept, squares, listed != [], data]
    """
    async with started_bench(kind=kind) as bench:
        assert value(await bench.run(text)) == ["42", "1", "echo", "kept", [1, 2], True, True]


@pytest.mark.parametrize("kind", FORKING)
@pytest.mark.parametrize("how", ["async def", "def"])
async def test_a_forked_process_ends_by_a_signal_as_anywhere_else(kind: str, how: str) -> None:
    """However early it comes, and though the run itself is stopped by the same one; what the author sets for it is inherited."""
    text = f"""
        import multiprocessing, os, signal, time
        def ended():
            process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            process.start(); process.terminate(); process.join()
            return process.exitcode
        @workflow
        {how} main():
            codes = [ended() for _ in range(20)]
            signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
            reader, writer = os.pipe()
            if (pid := os.fork()) == 0:
                os.write(writer, b"x")
                while True: time.sleep(0.01)
            os.read(reader, 1)
            os.kill(pid, signal.SIGTERM)
            return [*codes, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]
    """
    async with started_bench(kind=kind) as bench:
        assert value(await bench.run(text)) == [-15] * 20 + [7]


async def test_a_process_cannot_be_started_in_tier_b() -> None:
    async with started_bench(tiers=("B",)) as bench:
        outcome = await bench.run("import subprocess\n@workflow\ndef main(): subprocess.run(['true'])")
        assert outcome.error is not None
        assert outcome.error.type == "PermissionError"


@needs_a
async def test_the_way_out_is_a_listener_that_the_supervisor_holds() -> None:
    async with started_bench(tiers=("A",)) as bench:
        child = await bench.children._pool.take(CodePaths(bench.job("@workflow\ndef main(): ...").bundle, None))
        listener = child.egress_listener
        assert listener is not None
        assert listener.getsockname() == ("127.0.0.1", 3128)
        await child.end()
        assert listener.fileno() == -1


@pytest.mark.parametrize("kind", FORKING)
@pytest.mark.parametrize("cgroups", [True, False])
async def test_memory_of_a_whole_tree_is_bounded_and_told_as_oom(kind: str, cgroups: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "EVERY", 0.02)
    text = """
        import os, time
        @workflow
        def main():
            for _ in range(4):
                if os.fork() == 0:
                    kept = b"x" * (60 << 20)
                    time.sleep(60)
            while True:
                os.waitpid(-1, 0)
                os.kill(os.getpid(), 0)
    """
    async with started_bench(kind=kind, limits=ChildLimits(memory_mb=200, scratch_mb=8), cgroups=cgroups) as bench:
        ended = await bench.run(text)
        assert (ended.status, ended.reason) == ("crashed", "oom")
        assert value(await bench.run("@workflow\ndef main(): return len(b'x' * (60 << 20))")) == 60 << 20


@pytest.mark.parametrize("kind", OF_A)
async def test_a_run_that_kills_itself_by_signal_goes_on_as_the_first_process_of_its_namespace(kind: str) -> None:
    async with started_bench(kind=kind) as bench:
        assert value(await bench.run("import os\n@workflow\ndef main():\n    os.kill(os.getpid(), 9)\n    return os.getpid()")) == 1


@pytest.mark.parametrize("kind", [kind for kind in GATED if kind != TEMPLATES])
async def test_the_pool_places_children_for_the_bundle_that_is_asked_for(kind: str) -> None:
    async with started_bench(kind=kind) as bench:
        job = bench.job("@workflow\ndef main(): return 1")
        for _ in range(6):
            assert value(await bench.children.run(job, Recorded())) == 1
        bench.children._pool._least = 4
        bench.children._pool.tend()
        places = [(await slot).place for slot in bench.children._pool.waiting]
        assert len(places) == 4
        assert None in places
        assert CodePaths(job.bundle, None) in places
        other = bench.job("@workflow\ndef main(): return 2")
        assert value(await bench.children.run(other, Recorded())) == 2


async def test_the_pool_shrinks_when_nobody_asks(bench: Bench) -> None:
    pool = bench.children._pool
    job = bench.job("@workflow\ndef main(): return 1")
    pool._asking = 3  # as if three more waited for a child
    pool.tend()
    assert pool.target == 3
    pool._asking = 0
    for slot in pool.waiting:
        await slot
    assert value(await bench.children.run(job, Recorded())) == 1
    pool._takes.clear()

    async def shrunk() -> bool:
        pool.tend()  # retires those that wait; one that was being started goes when it has come
        return len(pool.waiting) == pool.target == 1

    await eventually(shrunk)
    before = len(os.listdir("/proc/self/fd"))
    await pool.close()
    assert len(os.listdir("/proc/self/fd")) < before
