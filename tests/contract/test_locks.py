"""Locks over processes: one holder at a time, in the order of asking, and fences that only rise, whatever is killed or paused."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import pytest
from nats.errors import TimeoutError as NotInTime

from shared.errors import Conflict, Unavailable
from shared.locks import LockLost, Locks
from tests.support.inside import bus_of, eventually
from tests.support.programs import module
from tests.support.servers import Place

# Seconds of a lease that is renewed in time on a busy machine, and is not waited for too long.
SHORT = 3


@asynccontextmanager
async def locks_of(place: Place, lease: int = 30) -> AsyncIterator[Locks]:
    async with bus_of(place, "executor") as bus:
        yield Locks(bus.client, "executor", lease=lease)


def contender(place: Place, name: str) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    arguments = (place.nats_url("executor"), name, str(SHORT))
    return module("tests.support.contender", *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)


@asynccontextmanager
async def tickets(place: Place) -> AsyncIterator[Callable[[int], Awaitable[bool]]]:
    """Tell whether so many wait for the one lock that is held."""
    async with bus_of(place, "admin") as bus:

        async def waiting(number: int) -> bool:
            info = await bus.client.jetstream().stream_info("KV_locks", subjects_filter="$KV.locks.*.*.queue.*")
            return len(info.state.subjects or {}) == number

        yield waiting


async def said(one: asyncio.subprocess.Process) -> list[str]:
    assert one.stdout is not None
    return (await one.stdout.readline()).decode().split()


async def test_one_holds_a_lock_at_a_time_and_each_fence_is_higher(place: Place) -> None:
    holders: list[int] = []
    fences: list[int] = []
    async with locks_of(place) as locks, locks_of(place) as others:

        async def take(own: Locks) -> None:
            async with own.hold("git:default", wait=60) as fence:
                holders.append(fence)
                assert len(holders) == 1
                await asyncio.sleep(0)
                fences.append(holders.pop())

        await asyncio.gather(*(take(own) for own in (locks, others) for _ in range(10)))
        assert len(fences) == 20
        assert fences == sorted(set(fences))


async def test_a_name_may_be_any_text_and_names_do_not_meet(place: Place) -> None:
    async with locks_of(place) as locks:
        for name in ("a", "a b", "org.*.>", "é/../\x00", "x" * 200):
            async with locks.hold(name, wait=10), locks.hold(f"{name}.", wait=10):
                with pytest.raises(Conflict, match="was not free within 0 s"):
                    async with locks.hold(name, wait=0):
                        pass


async def test_a_lock_is_free_after_its_block_however_that_ends(place: Place) -> None:
    async with locks_of(place) as locks:
        with pytest.raises(ZeroDivisionError):
            async with locks.hold("a", wait=0):
                raise ZeroDivisionError

        async def for_ever() -> None:
            async with locks.hold("a", wait=10):
                entered.set()
                await asyncio.Event().wait()

        entered = asyncio.Event()
        task = asyncio.create_task(for_ever())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with locks.hold("a", wait=0):
            pass


async def test_a_time_out_of_the_block_is_its_own(place: Place) -> None:
    async with locks_of(place) as locks:
        with pytest.raises(TimeoutError):
            async with locks.hold("a", wait=10), asyncio.timeout(0):
                await asyncio.Event().wait()


async def test_they_get_it_in_the_order_in_which_they_asked(place: Place) -> None:
    order: list[int] = []
    async with bus_of(place, "executor") as bus, tickets(place) as waiting:

        async def take(number: int) -> None:
            # As if each were a process.
            async with Locks(bus.client, "executor").hold("a", wait=60):
                order.append(number)

        async with asyncio.TaskGroup() as waiters, Locks(bus.client, "executor").hold("a", wait=10):
            for number in range(8):
                waiters.create_task(take(number))
                await eventually(partial(waiting, number + 1))
    assert order == list(range(8))


async def test_a_lock_of_the_dead_is_free_when_its_lease_ends_and_their_places_in_the_queue_hold_nobody_up(place: Place) -> None:
    async with locks_of(place, SHORT) as locks, tickets(place) as waiting, contender(place, "a") as holder:
        _, fence = await said(holder)
        async with contender(place, "a") as behind:
            await eventually(partial(waiting, 1))
            behind.kill()
            holder.kill()
            await asyncio.gather(holder.wait(), behind.wait())
            async with locks.hold("a", wait=60) as taken:
                assert taken > int(fence)


async def test_who_stood_still_beyond_the_lease_learns_that_the_lock_is_lost(place: Place) -> None:
    async with locks_of(place) as locks, contender(place, "a") as holder:
        _, fence = await said(holder)
        holder.send_signal(signal.SIGSTOP)
        async with locks.hold("a", wait=60) as taken:
            assert taken > int(fence)
            holder.send_signal(signal.SIGCONT)
            assert await said(holder) == ["lost"]
            # Its end does not free what is another one's.
            with pytest.raises(Conflict):
                async with locks.hold("a", wait=0):
                    pass


async def test_a_lease_is_renewed_as_long_as_the_work_takes(place: Place) -> None:
    async with locks_of(place, SHORT) as locks, locks_of(place) as others, locks.hold("a", wait=10):
        with pytest.raises(Conflict):
            async with others.hold("a", wait=1.5 * SHORT):
                pass


async def test_work_is_cancelled_when_its_lease_was_taken_away(place: Place) -> None:
    async with locks_of(place, SHORT) as locks, bus_of(place, "admin") as admin:

        async def work() -> None:
            async with locks.hold("a", wait=10):
                await admin.client.jetstream().purge_stream("KV_locks")
                await asyncio.Event().wait()

        with pytest.raises(LockLost, match="the lock 'a' was lost"):
            await work()


async def test_answers_that_are_lost_lose_no_lock(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bus_of(place, "executor") as bus:
        locks, request, lost = Locks(bus.client, "executor", lease=SHORT), bus.client.request, asyncio.Event()
        left = 1

        async def forgetful(subject: str, *arguments: object, **options: object) -> object:
            nonlocal left
            answer = await request(subject, *arguments, **options)  # type: ignore[arg-type]
            if subject.endswith(".held") and left:
                left -= 1
                lost.set()
                raise NotInTime
            return answer

        monkeypatch.setattr(bus.client, "request", forgetful)
        async with locks.hold("a", wait=10):
            lost.clear()
            left = 1
            await lost.wait()  # at a renewal
            with pytest.raises(Conflict):
                async with locks.hold("a", wait=SHORT):
                    pass


async def test_a_broker_that_is_away_is_told(place: Place) -> None:
    async with locks_of(place) as locks:
        pass
    with pytest.raises(Unavailable):
        async with locks.hold("a", wait=0):
            pass
