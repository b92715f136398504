"""Answers that are worked out once, whoever asks where: stampedes, long work, deaths, failures, and what one may have of many."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest

from shared import cache as caching
from shared.cache import AttemptEnded, Cache, Cached, Terms, Worked
from shared.errors import Invalid, TooLarge, TooMany, Unavailable
from shared.health import Health
from tests.support.inside import bus_of, eventually
from tests.support.programs import module
from tests.support.servers import Place

LONG = Terms(fresh=1000, stale=1000, limit=60)
SHORT_LEASE = 3


class Source:
    """Work that answers how often it was done, once it may."""

    def __init__(self, *, at: float | None = None) -> None:
        self.attempts: list[str] = []
        self.may = asyncio.Event()
        self.may.set()
        self.at = at
        self.error: Exception | None = None

    async def work(self, attempt: str) -> Worked:
        self.attempts.append(attempt)
        await self.may.wait()
        if self.error is not None:
            raise self.error
        return Worked(msgspec.Raw(str(len(self.attempts)).encode()), time.time() if self.at is None else self.at)


@asynccontextmanager
async def cache_of(place: Place, *, ahead: float = 0.0) -> AsyncIterator[Cache]:
    """A cache as another replica has it, whose clock is `ahead` by some seconds."""
    async with bus_of(place, "gateway") as bus:
        cache = Cache(bus.client, "gateway", "test", Health("gateway"), lease=30, now=lambda: time.time() + ahead)
        try:
            yield cache
        finally:
            await cache.close()


@asynccontextmanager
async def readers(
    place: Place, number: int, each: int, seconds: float, fresh: float = 300
) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    arguments = (place.nats_url("gateway"), str(each), str(seconds), str(SHORT_LEASE), str(fresh))
    async with AsyncExitStack() as stack:
        pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
        started = (stack.enter_async_context(module("tests.support.cache_reader", *arguments, **pipes)) for _ in range(number))
        found = [await one for one in started]
        for one in found:
            assert (await said(one))[0] == "ready"
        yield found


async def said(one: asyncio.subprocess.Process) -> list[str]:
    assert one.stdout is not None
    return (await one.stdout.readline()).decode().split(maxsplit=1)


def begin(*several: asyncio.subprocess.Process) -> None:
    for one in several:
        assert one.stdin is not None
        one.stdin.write(b"\n")


async def until_read(one: asyncio.subprocess.Process) -> tuple[list[str], dict[str, int]]:
    """Return the attempts that a process made, and how many of its readers had which answer."""
    attempts = []
    while (line := await said(one))[0] == "work":
        attempts.append(line[1].strip())
    return attempts, json.loads(line[1])


def number(found: Cached) -> int:
    return int(bytes(found.value))


async def test_a_thousand_readers_in_four_processes_have_one_answer_of_work_longer_than_a_lease(place: Place) -> None:
    worked = []
    async with readers(place, 4, 250, SHORT_LEASE + 2, fresh=0.001) as found:
        # At first there is none, and then it has expired.
        for _ in range(2):
            begin(*found)
            told = await asyncio.gather(*map(until_read, found))
            (attempt,) = [one for attempts, _ in told for one in attempts]
            assert [answers for _, answers in told] == [{json.dumps(attempt): 250}] * 4
            worked.append(attempt)
    assert len(set(worked)) == 2


async def test_when_the_one_that_works_is_killed_another_takes_its_attempt_up(place: Place) -> None:
    async with readers(place, 2, 20, SHORT_LEASE + 2) as (worker, heir):
        begin(worker)
        _, attempt = await said(worker)
        begin(heir)
        worker.kill()
        attempts, answers = await until_read(heir)
    assert attempts == [attempt.strip()]
    assert answers == {json.dumps(attempt.strip()): 20}


async def test_every_replica_has_what_one_has_worked_out(place: Place) -> None:
    source = Source()
    async with cache_of(place) as one, cache_of(place) as other:
        assert number(await one.get("default", "a", LONG, source.work, wait=20)) == 1
        found = await other.get("default", "a", LONG, source.work, wait=20)
        assert (number(found), found.is_stale, found.error) == (1, False, None)
        assert 0 <= found.age < 20
        assert number(await other.get("other", "a", LONG, source.work, wait=20)) == 2
        assert (one.counts["misses"], other.counts["hits"], other.counts["misses"]) == (1, 1, 1)


async def test_a_stale_answer_is_had_at_once_and_made_anew_meanwhile(place: Place) -> None:
    source = Source()
    async with cache_of(place) as one, cache_of(place, ahead=1500) as later:
        await one.get("default", "a", LONG, source.work, wait=20)
        source.may.clear()
        found = await later.get("default", "a", LONG, source.work, wait=20)
        assert (number(found), found.is_stale) == (1, True)
        source.may.set()
        source.at = time.time() + 1500

        async def is_new() -> bool:
            return number(await later.get("default", "a", LONG, source.work, wait=20)) == 2

        await eventually(is_new)
        assert len(source.attempts) == 2


async def test_a_stale_answer_outlives_failures_up_to_its_limit_and_not_beyond(place: Place) -> None:
    source = Source()
    async with cache_of(place) as one, cache_of(place, ahead=1500) as later, cache_of(place, ahead=2500) as beyond:
        await one.get("default", "a", LONG, source.work, wait=20)
        source.error = Invalid("it is broken")

        async def tells() -> bool:
            found = await later.get("default", "a", LONG, source.work, wait=20)
            assert (number(found), found.is_stale) == (1, True)
            return found.error == "it is broken"

        await eventually(tells)
        with pytest.raises(Invalid, match="it is broken"):
            await beyond.get("default", "a", LONG, source.work, wait=20)


async def test_a_failure_is_an_answer_for_a_while_and_one_that_says_nothing_is_none(place: Place) -> None:
    source = Source()
    source.error = Invalid("it is broken")
    async with cache_of(place) as one, cache_of(place) as other, cache_of(place, ahead=10) as later:
        for cache in (one, one, other):
            with pytest.raises(Invalid, match="it is broken"):
                await cache.get("default", "a", LONG, source.work, wait=20)
        assert len(source.attempts) == 1
        source.error = Unavailable("no worker")
        for _ in range(2):
            with pytest.raises(Unavailable, match="no worker"):
                await later.get("default", "a", LONG, source.work, wait=20)
        source.error = None
        assert number(await later.get("default", "a", LONG, source.work, wait=20)) == 4
        # It was one attempt that did not come to its end.
        assert len(set(source.attempts)) == 2


async def test_an_attempt_that_has_ended_without_an_answer_is_told_for_a_while_and_not_taken_up(place: Place) -> None:
    source = Source()
    source.error = AttemptEnded(Unavailable("no worker was free"))
    async with cache_of(place) as one, cache_of(place, ahead=10) as later:
        for _ in range(2):
            with pytest.raises(Unavailable, match="no worker was free"):
                await one.get("default", "a", LONG, source.work, wait=20)
        source.error = None
        assert number(await later.get("default", "a", LONG, source.work, wait=20)) == 2
        assert len(set(source.attempts)) == 2


async def test_the_newest_answer_is_worked_out_though_there_is_one(place: Place) -> None:
    source = Source()
    async with cache_of(place) as one:
        await one.get("default", "a", LONG, source.work, wait=20)
        assert number(await one.get("default", "a", LONG, source.work, wait=20, newest=True)) == 2
        assert number(await one.get("default", "a", LONG, source.work, wait=20)) == 2


async def test_one_organization_has_so_many_entries_and_flights_and_others_are_not_touched(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "CACHED_KEYS", 4)
    source = Source()
    async with cache_of(place) as one, cache_of(place) as other:
        await one.get("quiet", "a", LONG, source.work, wait=20)
        for key in range(8):
            await one.get("loud", str(key), LONG, source.work, wait=20)
        assert one.counts["evicted"] >= 4
        source.may.clear()
        waiting = [asyncio.create_task(one.get("loud", f"w{key}", LONG, source.work, wait=60)) for key in range(40)]
        with pytest.raises(TooMany):
            await next(iter(asyncio.as_completed(waiting)))
        assert number(await other.get("quiet", "a", LONG, source.work, wait=20)) == 1
        assert number(await one.get("quiet", "a", LONG, source.work, wait=20)) == 1
        source.may.set()
        told = await asyncio.gather(*waiting, return_exceptions=True)
        assert sum(isinstance(found, TooMany) for found in told) == 40 - caching.MOST
        with pytest.raises(TooLarge):
            await one.get("loud", "huge", LONG, _huge, wait=20)


async def test_entries_of_an_organization_are_forgotten_with_it(place: Place) -> None:
    source = Source()
    async with cache_of(place) as one:
        for key in ("a", "b"):
            await one.get("gone", key, LONG, source.work, wait=20)
        await one.get("here", "a", LONG, source.work, wait=20)
        assert await one.forget("gone") == 2
        assert number(await one.get("here", "a", LONG, source.work, wait=20)) == 3
        assert number(await one.get("gone", "a", LONG, source.work, wait=20)) == 4


async def test_what_was_seen_is_answered_while_the_broker_is_away(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    monkeypatch.setattr(caching, "LOOKS", 0.0)
    async with cache_of(place) as one:
        await one.get("default", "a", LONG, source.work, wait=20)
        await one._client.close()
        assert number(await one.get("default", "a", LONG, source.work, wait=20)) == 1
        with pytest.raises(Unavailable):
            await one.get("default", "b", LONG, source.work, wait=20)


async def _huge(_attempt: str) -> Worked:
    return Worked(msgspec.Raw(b'"' + b"x" * caching.LARGEST + b'"'), time.time())
