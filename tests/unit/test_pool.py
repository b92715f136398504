"""How many children wait."""

import asyncio
from pathlib import Path

from services.executor.sandbox.pool import Pool
from services.executor.sandbox.process import Child, Place


async def never() -> Child:
    raise AssertionError


async def test_the_pool_never_plans_for_more_than_its_memory_holds() -> None:
    pool = Pool(never, least=2, most=1000, memory_mb=40)
    pool._asking = 500
    assert pool.target == 10


async def test_the_target_follows_those_who_ask_within_its_bounds() -> None:
    pool = Pool(never, least=2, most=8)
    assert pool.target == 2
    pool._asking = 5
    assert pool.target == 5
    pool._asking = 50
    assert pool.target == 8


async def test_the_target_follows_the_rate_of_takes_and_sinks_when_they_end() -> None:
    pool = Pool(never, least=1, most=50)
    now = asyncio.get_running_loop().time()
    pool._takes.extend((now - 0.04 + index * 0.001, Place(Path("a"), None)) for index in range(40))
    assert 8 <= pool.target <= 12  # a thousand a second, each replaced in 10 ms
    pool._takes.clear()
    pool._takes.append((now - 31, Place(Path("a"), None)))
    assert pool.target == 1
