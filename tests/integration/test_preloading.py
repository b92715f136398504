"""Packages that are imported ahead: each run is a fork of a process behind all walls, and leaves nothing to the next."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.executor.sandbox.egress.network import Network
from services.executor.sandbox.interface import Job
from shared.egress.policy import EgressRules, rules
from tests.support.egress import Names
from tests.support.sandbox import OF_A, Bench, Recorded, started_bench, value

pytestmark = pytest.mark.skipif(not OF_A, reason="only tier A forks runs from a process with packages")

PACKAGE = """
import os, random
IMPORTED_BY = os.getpid()
state = []
"""


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with started_bench("A") as one:
        yield one


def packages(bench: Bench, **modules: str) -> Path:
    """A folder of packages."""
    folder = bench.folder / f"packages-{len(list(bench.folder.iterdir()))}"
    folder.mkdir()
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


async def warm(bench: Bench, job: Job, times: int = 2) -> None:
    """Run a job often enough for its packages to be preloaded."""
    for _ in range(times):
        await bench.children.run(job, Recorded())
    assert bench.children._preloading is not None
    await bench.children._preloading.made()


def with_packages(bench: Bench, folder: Path, body: str, **more: Any) -> Job:
    return msgspec.structs.replace(bench.job(body, **more), site_packages=folder)


BODY = """
import os, random, one
@workflow
def main() -> dict:
    one.state.append(1)
    open("left", "x").close()
    return {"pid": os.getpid(), "by": one.IMPORTED_BY, "state": len(one.state), "drawn": random.random(), "files": os.listdir(".")}
"""


async def test_a_run_finds_its_packages_imported_and_nothing_of_the_run_before(bench: Bench) -> None:
    job = with_packages(bench, packages(bench, one=PACKAGE), BODY)
    first = value(await bench.children.run(job, Recorded()))
    assert first["pid"] == first["by"]  # type: ignore[index]
    await warm(bench, job)
    await ready(bench)
    found: list[Any] = []
    for _ in range(4):
        found.append(value(await bench.children.run(job, Recorded())))
        await ready(bench)
    assert all(one["by"] == 1 and one["pid"] > 1 for one in found)
    assert [one["state"] for one in found] == [1] * 4
    assert [one["files"] for one in found] == [["left"]] * 4
    assert len({one["drawn"] for one in found}) == 4


async def test_runs_that_are_forked_have_a_way_to_the_network_and_an_import_has_none(bench: Bench) -> None:
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        await writer.drain()
        writer.close()

    text = (
        PACKAGE
        + """
import urllib.request
try:
    at_import = urllib.request.urlopen("http://api.example:%d/import", timeout=10).read().decode()
except OSError:
    at_import = "nothing"
"""
    )
    body = """
    import urllib.request, one
    @workflow
    def main(url: str) -> list:
        return [one.IMPORTED_BY, one.at_import, urllib.request.urlopen(url, timeout=10).read().decode()]
    """
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        network = Network(
            EgressRules(rules("127.0.0.1", allows=True)).of("default"), Names(api_example="127.0.0.1"), lambda _: None
        )
        folder = packages(bench, one=text % port)
        job = with_packages(bench, folder, body, url=f"http://api.example:{port}/run")
        for _ in range(2):
            assert value(await bench.children.run(job, Recorded(network))) == [1, "ok", "ok"]
        found: list[Any] = []
        for _ in range(3):
            await ready(bench)
            found.append(value(await bench.children.run(job, Recorded(network))))
    assert found == [[1, "nothing", "ok"]] * 3
    assert len(asked) == 7


async def ready(bench: Bench) -> None:
    """Wait until a preloaded child waits for the next run."""
    preloading = bench.children._preloading
    assert preloading is not None
    await preloading.made()
    async with asyncio.timeout(60):
        while not preloading.count:
            await asyncio.sleep(0.01)


REFUSED = {
    "a thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n",
    "a thread of C": "import ctypes as c\nlibc = c.CDLL(None)\nlibc.pthread_create(c.byref(c.c_ulong()), None, libc.pause, None)\n",
    "a file": "kept = open('/proc/self/status')\n",
    "a socket": "import socket\nkept = socket.socket()\n",
    "shared memory": "import mmap\nkept = mmap.mmap(-1, 4096)\n",
    "shared memory that is not written to yet": "import mmap\nkept = mmap.mmap(-1, 4096, prot=mmap.PROT_READ)\n",
    "a process": "import subprocess\nkept = subprocess.Popen(['sleep', '1000'])\n",
    "an exit": "raise SystemExit(3)\n",
    "a crash": "import ctypes, os\nif os.getpid() == 1: ctypes.string_at(0)\n",
}


@pytest.mark.parametrize("name", REFUSED)
async def test_packages_that_leave_what_may_not_be_forked_are_not_preloaded_and_runs_go_on(bench: Bench, name: str) -> None:
    text = REFUSED[name]
    body = (
        "import os\ntry:\n    import one\nexcept BaseException:\n    pass\n@workflow\ndef main() -> int:\n    return os.getpid()\n"
    )
    if name == "a crash":
        body = "import os\n@workflow\ndef main() -> int:\n    return 1\nif not os:\n    import one\n"
    job = with_packages(bench, packages(bench, one=text), body)
    await warm(bench, job, times=3)
    assert bench.children._preloading is not None
    assert bench.children._preloading.count == 0
    assert value(await bench.children.run(job, Recorded())) == 1


async def test_what_is_imported_ahead_stands_behind_all_walls(bench: Bench) -> None:
    text = """
import os, ctypes
found = []
for what, attempt in {
    "unshare": lambda: ctypes.CDLL(None, use_errno=True).unshare(0x10000000) == 0,
    "read": lambda: open("/etc/shadow"),
    "write": lambda: open("/workspace/x", "w"),
    "packages": lambda: open(__file__, "a"),
    "store": lambda: os.listdir("/.code") or None,
}.items():
    try:
        if attempt():
            found.append(what)
    except OSError:
        pass
capabilities = [line for line in open("/proc/self/status") if line.startswith("CapEff")][0].split()[1]
"""
    body = "import one\n@workflow\ndef main() -> list:\n    return [one.found, one.capabilities]\n"
    job = with_packages(bench, packages(bench, one=text), body)
    await warm(bench, job)
    await ready(bench)
    assert value(await bench.children.run(job, Recorded())) == [[], "0" * 16]


async def test_a_run_that_leaves_processes_or_ends_badly_leaves_nothing_to_the_next(bench: Bench) -> None:
    text = PACKAGE
    body = """
    import os, signal, subprocess, one
    @workflow
    def main(how: str = "") -> list:
        if how == "daemon":
            subprocess.Popen(["sleep", "1000"], start_new_session=True)
        if how == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if how == "exit":
            os._exit(0)
        if how == "parent":
            for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP):
                os.kill(1, number)
        if how == "hang":
            while True:
                pass
        return sorted(name for name in os.listdir("/proc") if name.isdigit() and int(name) not in (1, os.getpid()))
    """
    job = with_packages(bench, packages(bench, one=text), body)
    await warm(bench, job)
    for how, status in (
        ("daemon", "succeeded"),
        ("", "succeeded"),
        ("crash", "crashed"),
        ("exit", "crashed"),
        ("hang", "timed_out"),
    ):
        with contextlib.suppress(TimeoutError):
            await ready(bench)
        asked = msgspec.structs.replace(job, input={"how": how}, timeout=1.0 if how == "hang" else 20)
        outcome = await bench.children.run(asked, Recorded())
        assert outcome.status == status, how
        if how == "crash":
            assert outcome.error is not None
            assert "SIGSEGV" in outcome.error.message
        await warm(bench, job)
    await ready(bench)
    assert value(await bench.children.run(job, Recorded())) == []


async def test_a_workflow_may_choose_not_to_be_preloaded(bench: Bench) -> None:
    job = msgspec.structs.replace(with_packages(bench, packages(bench, one=PACKAGE), BODY), preload=False)
    for _ in range(3):
        found = value(await bench.children.run(job, Recorded()))
        assert found["pid"] == found["by"]  # type: ignore[index]
    assert bench.children._preloading is not None
    assert bench.children._preloading.count == 0


async def test_a_run_that_limits_the_process_it_was_forked_from_limits_no_other_run(bench: Bench) -> None:
    body = """
    import os, resource, one
    @workflow
    def main(how: str = "") -> list:
        try:
            if how == "limit":
                resource.prlimit(1, resource.RLIMIT_NOFILE, (64, 64))
            if how == "nice":
                os.setpriority(os.PRIO_PROCESS, 1, 19)
        except PermissionError:
            pass
        return [os.getpriority(os.PRIO_PROCESS, 1), *resource.prlimit(1, resource.RLIMIT_NOFILE)]
    """
    job = with_packages(bench, packages(bench, one=PACKAGE), body)
    await warm(bench, job)
    await ready(bench)
    usual = value(await bench.children.run(job, Recorded()))
    for how in ("limit", "nice"):
        await ready(bench)
        await bench.children.run(msgspec.structs.replace(job, input={"how": how}), Recorded())
        for _ in range(2):
            await warm(bench, job)
            await ready(bench)
            assert value(await bench.children.run(job, Recorded())) == usual
