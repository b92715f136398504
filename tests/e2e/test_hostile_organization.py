"""One organization does its worst, all at once, on a whole stack: another one loses no webhook and no run."""

from __future__ import annotations

from typing import Any

import aiohttp

from bench.hostile import Good, beside, measure
from bench.support.running import whole
from tests.support.hostile import Hostile, endless_topics
from tests.support.inside import eventually
from tests.support.places import open_folder


async def test_another_organization_loses_nothing_and_no_process_ends() -> None:
    with open_folder() as folder:
        found = (await measure(folder, 1.0, per_second=20, together=True)).more
    assert found["beside"]["sent"] > 100
    assert (found["beside"]["lost"], found["beside"]["refused"]) == (0, {}), found
    assert (found["restarted"], found["readyz"]) == ([], 200), found
    for act, answers in found["acts"].items():
        # A machine that is busy with all of it may ask the one who does it to come back later.
        assert not any(status.startswith("5") and status != "503" for status in answers), (act, answers)
        assert "trouble" not in answers, (act, answers)


async def test_a_topic_whose_runs_emit_to_it_delays_nobody_else_and_comes_to_its_end() -> None:
    longest = 300
    connector = aiohttp.TCPConnector(limit=0)
    with open_folder() as folder:
        async with (
            whole(folder / "data", MILLRACE_MAX_CHAIN=str(longest)) as stack,
            aiohttp.ClientSession(connector=connector) as session,
        ):
            good = Good(session, stack)
            await good.set_up()
            hostile = Hostile(session, stack.ready["url"], stack.ready["admin_key"], "endless_topics")
            found = await beside(good, 10, endless_topics(hostile))
            assert found["sent"] > 100
            assert (found["lost"], found["refused"]) == (0, {}), found
            assert found["answer_max_ms"] < 5000, found
            assert found["end_max_ms"] < 5000, found

            async def over() -> list[Any]:
                going = [await runs_of(hostile, status) for status in ("queued", "running", "waiting")]
                return [] if any(going) else await runs_of(hostile, "failed")

            refused: Any = await eventually(over, every=0.5)
            assert {run["error"]["type"] for run in refused} == {"Refused"}
            assert f"has {longest} runs or events already" in refused[0]["error"]["message"]


async def runs_of(hostile: Hostile, status: str) -> list[Any]:
    items: list[Any] = (await hostile.call("GET", f"/api/v1/runs?limit=1000&status={status}"))["items"]
    return items
