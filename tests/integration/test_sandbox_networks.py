"""Network namespaces, which one run of a bundle may have after another: only where nothing happened in them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.executor.sandbox.interface import Cancellation, Job
from tests.support.sandbox import OF_A, TIERS, UID, Bench, Recorded, reachable_interpreter, started_bench, value

pytestmark = [
    pytest.mark.skipif(UID is not None and reachable_interpreter() is None, reason="no interpreter for the sandbox's user"),
    pytest.mark.skipif(TIERS[0] != "A", reason="this machine forbids namespaces"),
]

COOKIE = "import socket; here = socket.socket().getsockopt(socket.SOL_SOCKET, 71, 8).hex()"
"""By which the kernel tells one network namespace from another."""

PLAIN = f"""
    {COOKIE}
    @workflow
    def main(): return here
"""


@pytest_asyncio.fixture(params=OF_A)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with started_bench(kind=request.param, size=4) as made:
        yield made


async def seen(bench: Bench, job: Job, times: int = 16) -> list[object]:
    """The namespaces of so many runs of one bundle, one after the other."""
    return [value(await bench.children.run(job, Recorded())) for _ in range(times)]


async def test_a_namespace_in_which_nothing_happened_serves_its_bundle_again(bench: Bench) -> None:
    found = await seen(bench, bench.job(PLAIN))
    assert len(set(found)) < len(found)


async def test_no_two_bundles_ever_have_the_same_namespace(bench: Bench) -> None:
    jobs = [bench.job(PLAIN) for _ in range(3)]
    found: list[set[object]] = [set(), set(), set()]
    for _ in range(12):
        for job, known in zip(jobs, found, strict=True):
            known.update(await seen(bench, job, 1))
    assert not found[0] & found[1]
    assert not found[0] & found[2]
    assert not found[1] & found[2]


async def test_no_two_living_runs_have_the_same_namespace(bench: Bench) -> None:
    await seen(bench, bench.job(PLAIN), 4)
    text = f"""
        {COOKIE}
        import threading
        @workflow
        def main():
            log.info(here)
            threading.Event().wait()
    """
    job, cancel = bench.job(text), Cancellation()
    records = [Recorded() for _ in range(8)]
    runs = [asyncio.create_task(bench.children.run(job, record, cancel=cancel)) for record in records]
    await asyncio.gather(*(record.logged.wait() for record in records))
    cancel.set()
    assert {outcome.status for outcome in await asyncio.gather(*runs)} == {"cancelled"}
    assert len({record.logs[0][1] for record in records}) == 8


TRACES = {
    "a connection to itself": "socket.socket().connect_ex(('127.0.0.1', 3128))",
    "a connection to nowhere": "socket.socket().connect_ex(('10.1.1.1', 3128))",
}
if Path("/proc/net/if_inet6").exists():
    TRACES |= {
        "a connection to nowhere by IPv6": "socket.socket(socket.AF_INET6).connect_ex(('2001:db8::1', 3128))",
        "a flow label": "socket.socket(socket.AF_INET6).setsockopt(41, 32, label)",
    }


@pytest.mark.parametrize("trace", TRACES)
async def test_a_namespace_in_which_something_happened_is_never_seen_again(bench: Bench, trace: str) -> None:
    text = f"""
        {COOKIE}
        import struct
        label = struct.pack("=16sIBBHHHI", bytes(15) + bytes([1]), socket.htonl(0x12345), 0, 255, 1, 6, 6, 0)
        @workflow
        def main():
            {TRACES[trace]}
            return here
    """
    found = await seen(bench, bench.job(text), 12)
    assert len(set(found)) == len(found)


async def test_what_a_run_leaves_without_a_trace_is_gone_for_the_next(bench: Bench) -> None:
    """A listening socket with a name, which is on its way through a socket that is on its own way when the run ends."""
    # A user has so many descriptors on their way at a time, and runs of other tests may have them.
    text = f"""
        {COOKIE}
        import errno, time
        @workflow
        def main():
            found = open("/proc/self/net/unix").read().splitlines()[1:]
            named = socket.socket(socket.AF_UNIX)
            try:
                named.bind("\\0left")
                named.listen()
            except OSError as error:
                found.append(str(error))
            one, other = socket.socketpair()
            while True:
                try:
                    socket.send_fds(one, [b"x"], [named.fileno(), one.fileno(), other.fileno()])
                    return [here, found]
                except OSError as error:
                    if error.errno != errno.ETOOMANYREFS:
                        raise
                    time.sleep(0.05)
    """
    found = [value(await bench.children.run(job, Recorded())) for job in [bench.job(text)] * 16]
    assert [left for _, left in found] == [[]] * 16
