"""How many children wait."""

import asyncio
from pathlib import Path

from services.executor.sandbox.pool import ChildPool
from services.executor.sandbox.process import Child, CodePaths


class EndedChild(Child):
    """A child that is there, and of which nothing is but that it was ended."""

    def __init__(self) -> None:
        self.place = None
        self.is_ended = False

    def ending(self) -> asyncio.Task[None]:
        self.is_ended = True
        return asyncio.create_task(asyncio.sleep(0))


async def never(_place: CodePaths | None) -> Child:
    raise AssertionError


async def test_the_pool_never_plans_for_more_than_its_memory_holds() -> None:
    pool = ChildPool(never, least=2, most=1000, memory_mb=40)
    pool._asking = 500
    assert pool.target == 10


async def test_the_target_follows_those_who_ask_within_its_bounds() -> None:
    pool = ChildPool(never, least=2, most=8)
    assert pool.target == 2
    pool._asking = 5
    assert pool.target == 5
    pool._asking = 50
    assert pool.target == 8


async def test_the_pool_grows_and_shrinks_within_its_memory() -> None:
    pool = ChildPool(never, least=2, most=8, memory_mb=40)
    pool._asking = 50
    for least, most, targets in ((4, 16, (4, 10)), (20, 40, (10, 10)), (2, 8, (2, 8))):
        pool.resize(least, most)
        assert pool.target == targets[1]
        pool._asking = 0
        assert pool.target == targets[0]
        pool._asking = 50
    await pool.close()


async def test_the_target_follows_the_rate_of_takes_and_sinks_when_they_end() -> None:
    pool = ChildPool(never, least=1, most=50)
    now = asyncio.get_running_loop().time()
    pool._takes.extend((now - 0.04 + index * 0.001, CodePaths(Path("a"), None)) for index in range(40))
    assert 8 <= pool.target <= 12  # a thousand a second, each replaced in 10 ms
    pool._takes.clear()
    pool._takes.append((now - 31, CodePaths(Path("a"), None)))
    assert pool.target == 1


async def test_a_child_that_is_begun_for_one_bundle_is_given_to_no_other() -> None:
    begun: list[CodePaths | None] = []

    async def begin(place: CodePaths | None) -> Child:
        begun.append(place)
        return await asyncio.Future()

    pool = ChildPool(begin, least=1, most=4)
    one, other = CodePaths(Path("a"), None), CodePaths(Path("b"), None)
    pool._begin(one)
    taking = asyncio.create_task(pool.take(other))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert begun == [one, other]
    taking.cancel()
    await pool.close()


async def test_what_waits_is_planned_for_the_last_bundles_and_one_stays_blank() -> None:
    begun: list[CodePaths | None] = []

    async def begin(place: CodePaths | None) -> Child:
        begun.append(place)
        return await asyncio.Future()

    pool = ChildPool(begin, least=4, most=4)
    often, once = CodePaths(Path("often"), None), CodePaths(Path("once"), None)
    now = asyncio.get_running_loop().time()
    pool._takes.extend([(now - 2, often), (now - 2, once), (now - 2, often)])
    pool.tend()
    await asyncio.sleep(0)
    assert begun == [None, often, often, often]
    await pool.close()


async def test_a_child_whose_taker_gave_up_after_the_pool_was_closed_is_ended() -> None:
    coming: asyncio.Future[Child] = asyncio.get_running_loop().create_future()

    async def begin(_place: CodePaths | None) -> Child:
        return await coming

    pool = ChildPool(begin, least=1, most=4)
    taking = asyncio.create_task(pool.take(CodePaths(Path("a"), None)))
    await asyncio.sleep(0)
    await pool.close()
    taking.cancel()
    await asyncio.wait([taking])
    child = EndedChild()
    coming.set_result(child)
    async with asyncio.timeout(5):
        while not child.is_ended:
            await asyncio.sleep(0)
