"""Templates: which jobs have one, what becomes of it, and what never is shared by it."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from services.executor.sandbox import templates
from services.executor.sandbox.egress.network import Record
from services.executor.sandbox.errors import SandboxUnavailable
from services.executor.sandbox.interface import Job
from services.executor.sandbox.process import CodePaths
from services.executor.sandbox.template import Template
from tests.support.egress import greeting_server, way_out
from tests.support.inside import eventually
from tests.support.sandbox import (
    TEMPLATES,
    TIERS,
    UID,
    Bench,
    Recorded,
    below,
    children_of,
    reachable_interpreter,
    started_bench,
    value,
)

pytestmark = [
    pytest.mark.skipif(UID is not None and reachable_interpreter() is None, reason="no interpreter for the sandbox's user"),
    pytest.mark.skipif(TIERS[0] != "A", reason="this machine forbids namespaces"),
]

NAMESPACES = """
    import os, time
    @workflow
    def main(waits: bool = False):
        found = {kind: os.readlink("/proc/self/ns/" + kind) for kind in os.listdir("/proc/self/ns")}
        log.info("up", **found)
        if waits: time.sleep(60)
        return found
"""
WAITS = "import time\n@workflow\ndef main():\n    log.info('up')\n    time.sleep(60)"


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    async with started_bench(kind=TEMPLATES) as made:
        yield made


def of(bench: Bench) -> templates.Templates:
    assert bench.children._templates is not None
    return bench.children._templates


def pids(bench: Bench) -> list[int]:
    return [template.pid for template, _ in of(bench).all]


async def until(claim: Callable[[], bool]) -> None:
    async def true() -> bool:
        return claim()

    await eventually(true)


async def ran(bench: Bench, job: Job) -> Any:
    return value(await bench.children.run(job, Recorded()))


async def test_a_workflow_in_a_folder_of_a_folder_has_a_template(bench: Bench) -> None:
    bundle = bench.bundle(area__deep__leaf="from millrace import workflow\n@workflow\ndef main(): return __name__")
    job = msgspec.structs.replace(bench.job("..."), bundle=bundle, module="area/deep/leaf.py")
    assert await ran(bench, job) == "area.deep.leaf"
    (template,) = pids(bench)
    assert [await ran(bench, job) for _ in range(3)] == ["area.deep.leaf"] * 3
    assert pids(bench) == [template]


async def test_a_child_of_a_template_has_the_same_way_out_as_any_other(bench: Bench) -> None:
    fetches = """
    import os, urllib.request
    @workflow
    def main(url: str):
        found = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
        return [found, urllib.request.urlopen(url, timeout=20).read().decode()]
    """
    told: list[Record] = []
    answers = []
    async with started_bench(kind="A") as other, greeting_server() as url:
        for one in (bench, other):
            job = one.job(fetches, url=url)
            answers.append(value(await one.children.run(job, Recorded(way_out(told.append)))))
    assert len(of(bench).all) == 1
    assert answers[0] == answers[1]
    variables, body = answers[0]
    assert len(variables) == 8
    assert body == "reached"
    assert [(one.outcome, one.host) for one in told] == [("connected", "127.0.0.1")] * 2


async def test_the_second_job_of_a_bundle_makes_a_template_and_none_waits_for_it() -> None:
    async with started_bench(template_after=2) as bench:
        job = bench.job("@workflow\ndef main(): return 1")
        assert await ran(bench, job) == 1
        assert not of(bench)._making
        assert not of(bench).all
        assert await ran(bench, job) == 1
        await until(lambda: len(of(bench).all) == 1)
        template, pool = of(bench).all[0]
        await until(lambda: bool(pool.waiting) and all(slot.done() for slot in pool.waiting))
        ahead = {slot.result().pid for slot in pool.waiting}
        assert ahead <= below(template.pid)
        assert await ran(bench, job) == 1
        assert not ahead <= {slot.result().pid for slot in pool.waiting if slot.done()}


async def test_jobs_that_are_far_apart_make_no_template(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "_RECENT", 0.0)
    async with started_bench(template_after=2) as bench:
        job = bench.job("@workflow\ndef main(): return 1")
        for _ in range(3):
            assert await ran(bench, job) == 1
        assert (of(bench).all, of(bench)._making) == ([], {})


async def test_organizations_with_the_same_code_have_templates_of_their_own(bench: Bench) -> None:
    job = bench.job(NAMESPACES)
    other = msgspec.structs.replace(job, org="other")
    mine = [await ran(bench, job) for _ in range(3)]
    theirs = [await ran(bench, other) for _ in range(3)]
    assert len(set(pids(bench))) == 2
    for kind in ("user", "ipc", "uts"):  # which live as long as the template
        assert not {one[kind] for one in mine} & {one[kind] for one in theirs}


async def test_runs_of_a_template_have_processes_mounts_and_living_networks_of_their_own(bench: Bench) -> None:
    job = bench.job(NAMESPACES, waits=True)
    records = [Recorded() for _ in range(6)]
    runs = [asyncio.create_task(bench.children.run(job, record)) for record in records]
    await asyncio.gather(*(record.logged.wait() for record in records))
    found = [record.logs[0][2] for record in records]
    for run in runs:
        run.cancel()
    await asyncio.gather(*runs, return_exceptions=True)
    assert len(pids(bench)) == 1
    for kind in ("mnt", "pid", "net"):
        assert len({one[kind] for one in found}) == 6
    for kind in ("user", "ipc", "uts"):
        assert len({one[kind] for one in found}) == 1


async def test_as_many_runs_as_an_organization_may_have_go_on_in_one_template(bench: Bench) -> None:
    body = """
        import resource, time
        @workflow
        def main():
            time.sleep(2)
            return resource.getrlimit(resource.RLIMIT_NOFILE)
    """
    job = bench.job(body)
    found = await asyncio.gather(*(ran(bench, job) for _ in range(40)))
    assert found == [[256, 256]] * 40
    assert len(pids(bench)) == 1


async def test_a_run_reaches_neither_its_template_nor_the_other_runs_of_it(bench: Bench) -> None:
    text = """
        import os, signal, socket, time
        @workflow
        def main(waits: bool):
            if waits:
                named = socket.socket(socket.AF_UNIX)
                named.bind("\\0sibling")
                named.listen()
                open("kept", "w").write("secret")
                log.info("up")
                time.sleep(60)
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            os.kill(0, signal.SIGUSR1)
            found = {"parent": os.getppid(), "processes": [name for name in os.listdir("/proc") if name.isdigit()]}
            for name, attempt in {
                "all": lambda: os.kill(-1, signal.SIGKILL),
                "parent's": lambda: os.kill(2, signal.SIGKILL),
                "socket": lambda: socket.socket(socket.AF_UNIX).connect("\\0sibling"),
            }.items():
                try:
                    attempt()
                    found[name] = "done"
                except OSError as error:
                    found[name] = type(error).__name__
            found["files"] = os.listdir(".")
            found["descriptors"] = [fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
            return found
    """
    into = Recorded()
    job = bench.job(text, waits=True)
    sibling = asyncio.create_task(bench.children.run(job, into))
    await into.logged.wait()
    other = msgspec.structs.replace(job, input={"waits": False})
    found = [await ran(bench, other) for _ in range(3)]
    assert not sibling.done()
    ((template, _),) = of(bench).all
    assert not template.died.done()
    sibling.cancel()
    await asyncio.gather(sibling, return_exceptions=True)
    for one in found:
        assert (one["parent"], one["processes"], one["files"]) == (0, ["1"], [])
        assert one["all"] in {"done", "ProcessLookupError"}  # there is nobody else in its namespace
        assert (one["parent's"], one["socket"]) == ("ProcessLookupError", "ConnectionRefusedError")
        assert len(one["descriptors"]) <= 5


async def test_no_code_of_the_author_runs_before_the_job(bench: Bench) -> None:
    text = """
        import sys
        BEFORE = sorted(sys.modules)
        import other
        from millrace import workflow
        @workflow
        def main(): return BEFORE
    """
    job = bench.job(text)
    inner = "import sys\nassert sys.first == 'flows'\nsys.first = 'other'"
    for name, content in (("flows/__init__.py", "import sys\nsys.first = 'flows'"), ("other.py", inner)):
        (job.bundle / name).write_text(content)
        (job.bundle / name).chmod(0o644)
    for _ in range(3):
        found = await ran(bench, job)
        assert "other" not in found


async def test_standard_modules_that_the_code_imports_are_there_before_it(bench: Bench) -> None:
    text = """
        import sys
        BEFORE = sorted(sys.modules)
        import csv, flows.inner
        from millrace import workflow
        @workflow
        def main(): return BEFORE
    """
    job = bench.job(text)
    (job.bundle / "flows" / "inner.py").write_text("from xml.etree import ElementTree\nimport multiprocessing\n")
    (job.bundle / "flows" / "inner.py").chmod(0o644)
    found = await ran(bench, job)
    assert {"csv", "xml.etree.ElementTree"} <= set(found)
    assert not {"multiprocessing", "flows.inner"} & set(found)


async def test_a_bundle_with_a_module_of_a_standard_name_gets_its_own_as_without_a_template(bench: Bench) -> None:
    job = bench.job("import csv, calendar\n@workflow\ndef main(): return [csv.__name__, calendar.WHOSE]")
    (job.bundle / "calendar.py").write_text("WHOSE = 'mine'\n")
    (job.bundle / "calendar.py").chmod(0o644)
    assert await ran(bench, job) == ["csv", "mine"]


async def test_no_two_runs_draw_the_same_numbers(bench: Bench) -> None:
    text = """
        import os, random, secrets, ssl, tempfile, uuid
        @workflow
        def main():
            drawn = [random.random(), os.urandom(8).hex(), str(uuid.uuid4()), secrets.token_hex(8), ssl.RAND_bytes(8).hex()]
            return [*drawn, tempfile.mkdtemp()]
    """
    job = bench.job(text)
    found = [tuple(await ran(bench, job)) for _ in range(8)]
    for drawn in zip(*found, strict=True):
        assert len(set(drawn)) == 8


async def test_a_killed_template_gives_its_runs_back_and_the_zygotes_children_go_on(bench: Bench) -> None:
    into = Recorded()
    job = bench.job(WAITS)
    running = asyncio.create_task(bench.children.run(job, into))
    await into.logged.wait()
    (first,) = pids(bench)
    inside = below(first)
    os.kill(first, signal.SIGKILL)
    with pytest.raises(SandboxUnavailable, match="the template died"):
        await running
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in {first, *inside}))
    quick = bench.job("@workflow\ndef main(): return 1")
    assert await ran(bench, quick) == 1
    assert first not in pids(bench)


async def test_a_bundle_whose_template_was_lost_does_without_for_a_while_and_then_has_another(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.job("@workflow\ndef main(): return 1")
    assert await ran(bench, job) == 1
    os.kill(pids(bench)[0], signal.SIGKILL)
    await until(lambda: not of(bench).all)
    assert await ran(bench, job) == 1
    assert not of(bench).all
    of(bench)._resting.clear()
    assert await ran(bench, job) == 1
    assert len(of(bench).all) == 1


async def test_a_template_that_breaks_the_protocol_is_killed(bench: Bench) -> None:
    assert await ran(bench, bench.job("@workflow\ndef main(): return 1")) == 1
    ((template, _),) = of(bench).all
    socket.send_fds(template._control, [b"no number"], [0, 1, 2])
    await until(lambda: template.died.done() and not of(bench).all)
    assert await ran(bench, bench.job("@workflow\ndef main(): return 2")) == 2


async def test_a_child_that_is_born_wrong_ends_its_template_and_the_job_runs_without(bench: Bench) -> None:
    job = bench.job("@workflow\ndef main(): return 1")
    assert await ran(bench, job) == 1
    ((template, pool),) = of(bench).all
    await pool.close()

    async def fail(_: object) -> Any:
        msg = "a wall cannot be raised"
        raise SandboxUnavailable(msg)

    pool._is_open, pool._start = True, fail
    assert await ran(bench, job) == 1
    await until(template.died.done)


async def test_the_least_recently_used_goes_first_and_none_that_has_a_run() -> None:
    async with started_bench(kind=TEMPLATES) as bench:
        of(bench)._most = 2
        into = Recorded()
        busy = asyncio.create_task(bench.children.run(bench.job(WAITS), into))
        await into.logged.wait()
        (first,) = pids(bench)
        jobs = [bench.job("@workflow\ndef main(): return 1") for _ in range(3)]
        for job in jobs:
            assert await ran(bench, job) == 1
            await until(lambda: not bench.children._ending)
            assert first in pids(bench)
            assert len(pids(bench)) <= 2
        assert (jobs[-1].org, CodePaths(jobs[-1].bundle, None)) in of(bench)._served
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)


async def test_idle_templates_are_ended_and_forgotten_bundles_have_none(bench: Bench) -> None:
    jobs = [bench.job("@workflow\ndef main(): return 1") for _ in range(2)]
    for job in jobs:
        assert await ran(bench, job) == 1
    known = [template for template, _ in of(bench).all]
    bench.children.forget(jobs[0].bundle)
    assert len(of(bench).all) == 1
    await until(lambda: not bench.children._ending)

    def are_idle() -> bool:
        of(bench).end_idle(0)
        return not of(bench).all and all(template.died.done() for template in known)

    await until(are_idle)


async def test_a_template_that_is_made_while_its_bundle_goes_serves_nobody() -> None:
    async with started_bench(template_after=2) as bench:
        job = bench.job("@workflow\ndef main(): return 1")
        make, goes = of(bench)._make, asyncio.Event()

        async def made(place: CodePaths) -> Template:
            template = await make(place)
            await goes.wait()
            return template

        of(bench)._make = made
        for _ in range(2):
            assert await ran(bench, job) == 1
        assert of(bench)._making
        bench.children.forget(job.bundle)
        goes.set()
        await until(lambda: not of(bench)._making)
        assert not of(bench).all
        assert await ran(bench, job) == 1


async def test_closing_while_templates_are_made_leaves_nothing() -> None:
    before = children_of(os.getpid())
    async with started_bench(template_after=2) as bench:
        jobs = [bench.job("@workflow\ndef main(): return 1") for _ in range(3)]
        for job in jobs * 2:
            assert await ran(bench, job) == 1
        assert isinstance(of(bench).all, list)
        assert Template.kind == "template"
    assert children_of(os.getpid()) == before
