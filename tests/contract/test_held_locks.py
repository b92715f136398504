"""The locks of attempts over a real broker: the organization's own, given back in any case, and the end of one that loses any."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.executor.runs.held_locks import MOST, HeldLocks
from shared.errors import Conflict, TooLarge
from shared.locks import LockLost, Locks
from tests.support.inside import bus_of
from tests.support.servers import Place

SHORT = 3


@asynccontextmanager
async def attempts(place: Place, *orgs: str, lease: int = 30) -> AsyncIterator[list[HeldLocks]]:
    """Attempts of these organizations, each as if it were at another executor."""
    async with bus_of(place, "executor") as bus:
        made = [HeldLocks(Locks(bus.client, "executor", lease=lease), org) for org in orgs]
        try:
            yield made
        finally:
            for one in made:
                await one.close()


async def test_a_lock_is_of_one_attempt_of_its_organization_until_it_is_given_back(place: Place) -> None:
    async with attempts(place, "a", "a", "b") as (one, other, foreign):
        first = (await one.hold(1, "customer", 0))["fence"]
        assert (await foreign.hold(1, "customer", 0))["fence"] > first
        with pytest.raises(Conflict, match=r"^the lock 'customer' was not free within 0 s$"):
            await other.hold(1, "customer", 0)
        waiting = asyncio.create_task(other.hold(2, "customer", 60))
        await asyncio.sleep(0)
        await one.free(1)
        await one.free(1)
        second = (await waiting)["fence"]
        assert second > first
        await other.close()
        assert (await one.hold(2, "customer", 0))["fence"] > second


async def test_who_gives_up_waiting_never_gets_it(place: Place) -> None:
    async with attempts(place, "a", "a", "a") as (one, other, third):
        await one.hold(1, "customer", 0)
        waiting = asyncio.create_task(other.hold(1, "customer", 60))
        await asyncio.sleep(0)
        await other.free(1)
        await one.free(1)
        await third.hold(1, "customer", 60)
        waiting.cancel()
        gone = asyncio.create_task(other.hold(2, "customer", 60))
        await asyncio.sleep(0)
        gone.cancel()
        await other.close()
        await third.free(1)
        await one.hold(2, "customer", 60)


async def test_an_attempt_holds_so_many_at_a_time(place: Place) -> None:
    async with attempts(place, "a") as (one,):
        for number in range(MOST):
            await one.hold(number, f"lock {number}", 0)
        with pytest.raises(TooLarge, match="16 locks"):
            await one.hold(MOST, "another", 0)
        await one.free(3)
        await one.hold(MOST, "another", 0)


async def test_an_attempt_that_loses_a_lock_is_cancelled_and_a_time_out_of_its_own_is_its_own(place: Place) -> None:
    async with attempts(place, "a", lease=SHORT) as (one,), bus_of(place, "admin") as admin:

        async def attempt() -> None:
            async with one.guard():
                await one.hold(1, "customer", 0)
                await admin.client.jetstream().purge_stream("KV_locks")
                await asyncio.Event().wait()

        with pytest.raises(LockLost, match="the lock 'customer' was lost"):
            await attempt()
        with pytest.raises(TimeoutError):
            async with one.guard(), asyncio.timeout(0):
                await asyncio.Event().wait()
