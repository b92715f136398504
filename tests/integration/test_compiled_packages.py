"""Packages with a compiled module that misbehaves: found out, not preloaded, a clear end of its run, and no harm to others."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from services.executor.sandbox import preloading
from services.executor.sandbox.interface import Job
from tests.support.extensions import COMPILER, NO_COMPILER, extension
from tests.support.sandbox import GATED, OF_A, Bench, Recorded, started_bench, value

pytestmark = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)

BODY = "import one\n@workflow\ndef main() -> str:\n    return one.__name__\n"

THREADS = "import os, one\n@workflow\ndef main() -> int:\n    return len(os.listdir('/proc/1/task'))\n"
"""Returns the threads of the first process that the run can see."""
ENDS = {
    "segfaults": ("crashed", "SIGSEGV"),
    "aborts": ("crashed", "was ended by SIG"),
    "exits": ("crashed", "with code 0 before it gave a result"),
    "overflows": ("crashed", "SIGSEGV"),
    "spins": ("timed_out", "it ran longer than 1 s"),
    "closes": ("crashed", "before it gave a result"),
    "replaces": ("crashed", "closed its control socket and gave no result"),
}
"""The run's status, and words of its error, of what ends it."""
NOT_FORKED = {
    "starts a thread": "has started 1 thread",
    "starts many threads": "has started 20 threads",
    "opens a socket": "has left 1 files or sockets open",
    "opens files": "has left 10 files or sockets open",
    "opens a socket in the place of a file": "has left 1 files or sockets open",
    "shares memory": "has made memory that forks would share",
    "sets a timer": "has set a timer",
}
"""What does no harm to its run, but may not be there for forking, and the reason that is logged."""
AT_FORKS = (
    "starts a thread after a fork",
    "opens a file after a fork",
    "ends the process that it was imported in after a fork",
)


@pytest.fixture(params=GATED)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with started_bench(request.param) as one:
        yield one


def job_with(bench: Bench, what: str, body: str = BODY, timeout: float = 20.0) -> Job:
    folder = bench.folder / f"packages-{len(list(bench.folder.iterdir()))}"
    folder.mkdir()
    folder.chmod(0o755)
    extension(folder, "one", what)
    return msgspec.structs.replace(bench.job(body, timeout=timeout), site_packages=folder)


async def made(bench: Bench) -> int:
    """Wait until no child is being preloaded; return how many wait."""
    ahead = bench.children._preloading
    if ahead is None:
        return 0
    await ahead.made()
    return ahead.count


async def test_a_module_that_ends_its_run_is_named_each_time_and_is_not_preloaded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preloading, "_IMPORT", 1.0)
    kind = msgspec.structs.replace(job_with(bench, "is kind"), org="other", preload=False)
    for what, (status, told) in ENDS.items():
        job = job_with(bench, what, timeout=1.0 if what == "spins" else 20.0)
        for _ in range(2):
            outcome = await bench.children.run(job, Recorded())
            assert outcome.error is not None, what
            assert (outcome.status, told in outcome.error.message) == (status, True), outcome
            assert await made(bench) == 0
        assert value(await bench.children.run(kind, Recorded())) == "one"


async def test_a_module_that_leaves_what_may_not_be_forked_is_not_preloaded_and_its_runs_succeed(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    for what, told in NOT_FORKED.items():
        job = job_with(bench, what)
        for _ in range(3):
            assert value(await bench.children.run(job, Recorded())) == "one"
            assert await made(bench) == 0
        if bench.children._preloading is not None:
            assert told in capsys.readouterr().out


@pytest.mark.skipif(not OF_A, reason="only tier A forks runs from a process with packages")
@pytest.mark.parametrize("what", AT_FORKS)
async def test_a_module_that_changes_its_process_at_a_fork_loses_it_and_every_run_has_its_end(what: str) -> None:
    async with started_bench("A") as bench:
        job = job_with(bench, what, THREADS)
        for _ in range(8):
            outcome = await bench.children.run(job, Recorded())
            if not what.startswith("ends"):
                assert value(outcome) in (1, 2)
            assert outcome.status in ("succeeded", "crashed")
            await made(bench)
        kind = job_with(bench, "is kind")
        assert value(await bench.children.run(kind, Recorded())) == "one"
