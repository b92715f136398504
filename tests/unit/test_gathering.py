"""One read for all who wait, and none that began before the question."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

import pytest

from shared.errors import Unavailable
from shared.gathering import Gathered


class Reads:
    """A read that is let go by hand; `asked` holds the keys of each, sorted."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.begun = asyncio.Event()
        self.let = asyncio.Event()
        self.values = {"a": 1, "b": 1}
        self.failure: Exception | None = None

    async def __call__(self, keys: Collection[str]) -> Mapping[str, int]:
        self.asked.append(sorted(keys))
        found = dict(self.values)
        self.begun.set()
        await self.let.wait()
        if self.failure is not None:
            raise self.failure
        return found


async def begun(gathered: Gathered[str, int], reads: Reads, key: str) -> asyncio.Task[int | None]:
    """Ask for a key, and return when the read has begun."""
    task = asyncio.create_task(gathered.of(key))
    await reads.begun.wait()
    return task


async def test_who_asks_while_a_read_is_under_way_is_answered_by_the_next_one() -> None:
    reads = Reads()
    gathered = Gathered(reads, within=30)
    first = await begun(gathered, reads, "a")
    later = [asyncio.create_task(gathered.of(key)) for key in ("b", "a", "a", "absent")]
    await asyncio.sleep(0)
    reads.values["a"] = 2
    reads.let.set()
    assert (await first, [await one for one in later]) == (1, [1, 2, 2, None])
    assert reads.asked == [["a"], ["a", "absent", "b"]]


async def test_who_waits_no_longer_ends_nothing_for_the_others() -> None:
    reads = Reads()
    gathered = Gathered(reads, within=30)
    gone = await begun(gathered, reads, "a")
    other = asyncio.create_task(gathered.of("a"))
    gone.cancel()
    reads.let.set()
    assert await other == 1


async def test_a_failure_is_that_of_all_who_waited_and_of_nobody_else() -> None:
    reads = Reads()
    reads.failure = ValueError("broken")
    gathered = Gathered(reads, within=30)
    first = await begun(gathered, reads, "a")
    reads.let.set()
    with pytest.raises(ValueError, match="broken"):
        await first
    reads.failure = None
    assert await gathered.of("a") == 1


async def test_a_read_that_hangs_holds_up_nobody_for_ever() -> None:
    reads = Reads()
    gathered = Gathered(reads, within=0.01)
    with pytest.raises(Unavailable, match="in time"):
        await gathered.of("a")
    reads.let.set()
    assert await gathered.of("a") == 1


async def test_closing_cancels_who_waits() -> None:
    reads = Reads()
    gathered = Gathered(reads, within=30)
    waiting = [await begun(gathered, reads, "a"), asyncio.create_task(gathered.of("b"))]
    await asyncio.sleep(0)
    await gathered.close()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in found] == [asyncio.CancelledError] * 2
