"""Periodic work has one leader, and another one as soon as that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from shared import tasks
from shared.errors import Unavailable
from shared.leader import lead
from shared.organizations import first_seen, seen_by
from tests.support.inside import eventually
from tests.support.servers import Place


def leading(place: Place, once: Callable[[], Awaitable[int]], pause: float = 0.01, **more: float) -> asyncio.Task[None]:
    url = place.database_url("executor")
    leader = lead(once, url=url, service="executor", lock="test", pause=pause, interrupted="test.interrupted", **more)  # type: ignore[arg-type]
    return asyncio.create_task(leader)


async def test_one_of_several_leads_and_another_takes_over_when_it_is_gone(place: Place) -> None:
    calls: list[str] = []

    def replica(name: str) -> Callable[[], Awaitable[int]]:
        async def once() -> int:
            calls.append(name)
            return 0

        return once

    replicas = {name: leading(place, replica(name)) for name in "ab"}

    async def called_often() -> bool:
        return len(calls) > 5

    await eventually(called_often)
    (leader,) = set(calls)
    calls.clear()
    await tasks.end([replicas.pop(leader)])
    calls.clear()
    await eventually(called_often)
    assert set(calls) == set(replicas)
    await tasks.end(replicas.values())


async def test_what_stands_in_the_way_and_bugs_are_met_by_trying_again(place: Place) -> None:
    errors: list[Exception] = [Unavailable("away"), ValueError("a bug")]
    done = asyncio.Event()

    async def once() -> int:
        if errors:
            raise errors.pop()
        done.set()
        return 0

    task = leading(place, once)
    async with asyncio.timeout(60):
        await done.wait()
    await tasks.end([task])


async def test_the_first_call_and_one_after_an_obstacle_come_as_soon_as_they_are_to(place: Place) -> None:
    errors: list[Exception] = [ValueError("a bug"), Unavailable("away")]
    done = asyncio.Event()

    async def once() -> int:
        if errors:
            raise errors.pop()
        done.set()
        return 0

    task = leading(place, once, pause=3600.0, first=0.0, again=0.01)
    async with asyncio.timeout(60):
        await done.wait()
    await tasks.end([task])


async def test_a_call_that_did_as_much_as_it_may_is_followed_by_another_at_once(place: Place) -> None:
    counts = [3, 3, 1]
    done = asyncio.Event()

    async def once() -> int:
        count = counts.pop(0)
        if not counts:
            done.set()
        return count

    # With a pause between any two of them the third would not come.
    task = leading(place, once, full=3, pause=3600.0, first=0.0)
    async with asyncio.timeout(60):
        await done.wait()
    await tasks.end([task])


async def test_an_organization_sees_its_own_first_and_the_platform_its_own_only() -> None:
    asked: list[str] = []

    async def find(org: str) -> str | None:
        asked.append(org)
        return "found" if org == "global" else None

    assert (seen_by("acme"), seen_by("global")) == (("acme", "global"), ("global",))
    assert await first_seen("acme", find) == "found"
    assert asked == ["acme", "global"]
