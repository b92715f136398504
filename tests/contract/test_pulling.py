"""Work is pulled in batches: how much is in hand, what a slow handler holds up, and what becomes of it when a service ends."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg

from shared import bus as bus_module
from shared import commit, puller
from shared.bounded import ArrivalOrder
from shared.bus import CONCURRENCY, FETCHED, Bus
from shared.durables import bring
from shared.pull import api_request
from shared.puller import Puller
from shared.streams import WORK
from tests.contract.test_handling import Yields, events_of, filtered, handling, received
from tests.support.inside import bus_of, eventually
from tests.support.servers import Place

PARSE = next(work for work in WORK if work.name == "events-parse")


async def send(gateway: Bus, many: int, source: str = "s") -> None:
    await asyncio.gather(*(gateway.publish(gateway.seal(received(source), org="default")) for _ in range(many)))


async def info(bus: Bus) -> Any:
    return await api_request(bus.client, "$JS.API.CONSUMER.INFO.WEBHOOKS.events-parse", None)


async def until_settled(bus: Bus) -> None:
    async def settled() -> bool:
        found = await info(bus)
        return bool(found["num_pending"] == 0 and found["num_ack_pending"] == 0)

    await eventually(settled)


@asynccontextmanager
async def pulling(bus: Bus, handle: Any, **how: Any) -> AsyncIterator[Puller]:
    given: dict[str, Any] = {"at_once": 4, "fetched": 16, "queue": ArrivalOrder[Msg]()} | how
    puller = Puller(bus.client, PARSE.stream, PARSE.name, handle, **given)
    await puller.start()
    try:
        yield puller
    finally:
        await puller.drain(0)


async def test_slow_handlers_hold_up_nobody(place: Place) -> None:
    over = asyncio.Event()
    begun = 0

    async def handler(message: Any, _deps: Any) -> Yields:
        nonlocal begun
        if message.source == "slow":
            begun += 1
            await over.wait()
        yield filtered(message, message.delivery), "one"

    async with handling(place, handler) as (events, gateway):
        await send(gateway, CONCURRENCY - 1, "slow")

        async def all_begun() -> bool:
            return begun == CONCURRENCY - 1

        await eventually(all_begun)
        await send(gateway, 3 * FETCHED, "quick")

        async def handled() -> bool:
            return len(await events_of(events, "quick")) == 3 * FETCHED

        await eventually(handled)
        over.set()
        await until_settled(events)


async def test_no_more_is_handled_at_once_nor_in_hand_than_is_allowed(place: Place) -> None:
    over = asyncio.Event()
    at_once = most = 0

    async def handler(_message: Any, _deps: Any) -> Yields:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await over.wait()
        at_once -= 1
        return
        yield

    async with handling(place, handler) as (events, gateway):
        await send(gateway, 2 * FETCHED)

        async def is_full() -> bool:
            return bool((await info(events))["num_ack_pending"] == FETCHED)

        await eventually(is_full)
        over.set()
        await until_settled(events)
    assert most == CONCURRENCY


async def test_what_one_socket_read_brings_goes_into_few_commits(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real_batch, real_one = commit.send_batch, commit.send_one

    async def batch(client: Any, messages: Any) -> Any:
        sizes.append(len(messages))
        return await real_batch(client, messages)

    async def one(client: Any, message: Any) -> Any:
        sizes.append(1)
        return await real_one(client, message)

    async def handler(message: Any, _deps: Any) -> Yields:
        yield filtered(message, message.delivery), "one"

    async with bus_of(place, "gateway") as gateway:
        await send(gateway, 512)
    monkeypatch.setattr(commit, "send_batch", batch)
    monkeypatch.setattr(commit, "send_one", one)
    async with handling(place, handler) as (events, _):
        await until_settled(events)
        assert len(await events_of(events)) == 512
    assert sum(sizes) == 512
    assert len(sizes) < 512 / 8


async def test_a_message_that_is_delivered_again_while_it_is_handled_is_not_handled_twice_at_once(place: Place) -> None:
    tries: Counter[str] = Counter()

    async def handler(message: Any, _deps: Any) -> Yields:
        tries[message.source] += 1
        if message.source == "slow":
            await asyncio.sleep(1.5)
        yield filtered(message, "one"), "one"

    async with bus_of(place, "admin") as admin:
        await bring(admin.client, msgspec.structs.replace(PARSE, ack_wait=0.4))
    async with handling(place, handler) as (events, gateway):
        await send(gateway, 1, "slow")
        await until_settled(events)
        assert (await info(events))["delivered"]["consumer_seq"] > 1
        assert tries == {"slow": 1}
        assert await events_of(events, "slow") == ["one"]


async def test_what_has_begun_ends_with_its_service_and_the_rest_is_given_back_at_once(place: Place) -> None:
    seen: Counter[str] = Counter()
    begun = asyncio.Event()

    async def slow(message: Any, _deps: Any) -> Yields:
        seen[message.delivery] += 1
        begun.set()
        await asyncio.sleep(0.3)
        yield filtered(message, message.delivery), "one"

    async def quick(message: Any, _deps: Any) -> Yields:
        seen[message.delivery] += 1
        yield filtered(message, message.delivery), "one"

    async with bus_of(place, "gateway") as gateway:
        await send(gateway, FETCHED)
    async with handling(place, slow):
        await begun.wait()
    assert len(seen) == CONCURRENCY
    async with handling(place, quick) as (events, _):
        # Well below the 30 s after which they would come by themselves.
        await until_settled(events)
        assert len(await events_of(events)) == FETCHED
    assert set(seen.values()) == {1}
    assert len(seen) == FETCHED


async def test_what_does_not_end_in_time_is_given_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus_module, "DRAIN", 0.1)
    begun = asyncio.Event()

    async def stuck(message: Any, _deps: Any) -> Yields:
        begun.set()
        await asyncio.Event().wait()
        yield filtered(message, "never"), "one"

    async def quick(message: Any, _deps: Any) -> Yields:
        yield filtered(message, "handled"), "one"

    async with handling(place, stuck) as (_, gateway):
        await send(gateway, 1)
        await begun.wait()
    async with handling(place, quick) as (events, _):
        await until_settled(events)
        assert await events_of(events) == ["handled"]


async def test_one_pull_waits_at_the_server_however_much_came_through(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(puller, "HEARTBEAT", 1000.0)  # no pull is taken for lost

    async def take(msg: Msg) -> None:
        await msg.ack()

    async with bus_of(place, "events") as events, bus_of(place, "gateway") as gateway, pulling(events, take):
        for _ in range(20):
            await send(gateway, 7)
            await until_settled(events)

        async def one_waits() -> bool:
            return bool((await info(events))["num_waiting"] == 1)

        await eventually(one_waits)


async def test_pulling_goes_on_over_a_new_connection(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(puller, "HEARTBEAT", 1000.0)  # no pull is taken for lost while the connection lasts
    seen = 0

    async def take(msg: Msg) -> None:
        nonlocal seen
        seen += 1
        await msg.ack()

    async with bus_of(place, "events") as events, bus_of(place, "gateway") as gateway, pulling(events, take):
        for round_ in range(1, 4):
            await send(gateway, 50)

            async def all_seen(wanted: int = 50 * round_) -> bool:
                return seen == wanted

            await eventually(all_seen)
            reconnects = events.client.stats["reconnects"]
            transport = events.client._transport
            assert transport is not None
            transport.close()

            async def again(before: int = reconnects) -> bool:
                return bool(events.client.stats["reconnects"] > before and events.client.is_connected)

            await eventually(again)


async def test_a_queue_decides_what_is_handled_next(place: Place) -> None:
    handled: list[str] = []
    go = asyncio.Event()

    class Favourites(ArrivalOrder[Msg]):
        def get(self) -> Msg:
            first = next((msg for msg in self._items if msg.subject == "webhook.dear.received"), self._items[0])
            self._items.remove(first)
            return first

    async def take(msg: Msg) -> None:
        handled.append(msg.subject.split(".")[1])
        await go.wait()
        await msg.ack()

    async with bus_of(place, "events") as events, bus_of(place, "gateway") as gateway:
        await send(gateway, 10, "plain")
        await send(gateway, 5, "dear")
        async with pulling(events, take, at_once=1, queue=Favourites()) as puller:

            async def fetched() -> bool:
                return bool((await info(events))["num_ack_pending"] == 15)

            await eventually(fetched)
            go.set()
            await until_settled(events)
            assert handled[1:6] == ["dear"] * 5 or handled[0:5] == ["dear"] * 5
            assert puller.in_hand == 0


async def test_a_handler_that_raises_is_no_end_of_pulling(place: Place) -> None:
    seen: list[str] = []

    def take(msg: Msg) -> Coroutine[Any, Any, None]:
        async def inner() -> None:
            seen.append(msg.subject)
            await msg.ack()
            if len(seen) == 1:
                raise RuntimeError("not even the verdict worked")

        return inner()

    async with bus_of(place, "events") as events, bus_of(place, "gateway") as gateway, pulling(events, take, at_once=1):
        await send(gateway, 40)
        await until_settled(events)
        assert len(seen) == 40
