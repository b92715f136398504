"""A coroutine workflow that holds its event loop up is told of it, with the line that does."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.inside import eventually
from tests.support.sandbox import KINDS, UID, Bench, Recorded, reachable_interpreter, started_bench, value

pytestmark = pytest.mark.skipif(
    UID is not None and reachable_interpreter() is None, reason="no interpreter that the sandbox's user can read"
)


@pytest_asyncio.fixture(params=KINDS)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with started_bench(kind=request.param) as made:
        yield made


async def told(bench: Bench, text: str) -> list[dict[str, Any]]:
    record = Recorded()
    assert value(await bench.run(text, record)) == "done"
    assert {(level, event) for level, event, _ in record.logs} <= {("warning", "loop.blocked")}
    return [fields for _, _, fields in record.logs]


async def told_times(bench: Bench, text: str, times: int) -> list[dict[str, Any]]:
    """Return the lines of a run that was told so many times; a machine that stands still meanwhile makes fewer or more of them."""

    async def whole() -> list[dict[str, Any]] | None:
        lines = await told(bench, text)
        return lines if len(lines) == times else None

    found = await eventually(whole)
    assert isinstance(found, list)
    return found


async def test_a_blocking_call_at_the_very_first_is_told_with_its_line_and_once_each_time_that_it_doubles(bench: Bench) -> None:
    text = """
        import time
        def fetch():
            time.sleep(3.9)
        @workflow
        async def main():
            fetch()
            return "done"
    """
    first, second = await told_times(bench, text, 2)
    assert first["at"] == second["at"] == "flows/one.py:5"
    assert 1 <= first["seconds"] < 2 <= second["seconds"] < 3
    assert "asyncio.to_thread" in first["advice"]


async def test_a_later_one_is_told_as_well_and_so_is_one_that_only_computes(bench: Bench) -> None:
    text = """
        import asyncio, time
        @workflow
        async def main():
            await asyncio.sleep(1.2)
            ends = time.monotonic() + 1.9
            while time.monotonic() < ends: pass
            await asyncio.sleep(0.6)
            return "done"
    """
    (line,) = await told_times(bench, text, 1)
    assert line["at"] == "flows/one.py:8"


async def test_a_loop_that_turns_is_not_complained_of_and_neither_is_a_plain_function(bench: Bench) -> None:
    waiting = """
        import asyncio, time
        @workflow
        async def main():
            await asyncio.gather(asyncio.sleep(2.5), asyncio.to_thread(time.sleep, 2.5))
            time.sleep(0.3)
            return "done"
    """
    plain = """
        import time
        @workflow
        def main():
            time.sleep(2.5)
            return "done"
    """
    assert await told(bench, waiting) == []
    assert await told(bench, plain) == []


async def test_looking_on_leaves_time_outs_and_signals_of_the_author_alone(bench: Bench) -> None:
    text = """
        import asyncio, signal, time
        @workflow
        async def main():
            rung = []
            signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            await asyncio.sleep(0.2)
            assert rung == [1]
            return "done"
    """
    assert await told(bench, text) == []
    hanging = "import time\n@workflow\nasync def main():\n    while True: time.sleep(0.1)"
    outcome = await bench.run(hanging, timeout=1.6)
    assert (outcome.status, outcome.reason) == ("timed_out", "timeout")
