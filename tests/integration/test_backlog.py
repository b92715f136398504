"""Consumption slower than acceptance: senders are told, everything accepted is handled, and one source is not in others' way."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from services.events import floods, queued
from services.gateway import backlog
from services.gateway.lanes import FEW
from shared.bus import FETCHED, Bus
from shared.durables import backlog_of
from shared.envelope import open_message
from shared.messages import EventFiltered, WebhookReceived
from shared.pull import Inbox, api_request, pull, status_of
from shared.registry import RegistryWriter
from shared.resources.source import SourceEntry
from shared.streams import BULK_LANES, WORK
from tests.integration.test_gateway import SECRET, Client, Got, entry, executor, gateway, ready, stream
from tests.support.inside import bus_of, eventually, running
from tests.support.river import Outside
from tests.support.servers import Place
from tests.support.stack import ROOT

# Webhooks; several times what the events service has in hand at once.
FLOOD = 2000
ROOM = 50
ROUTING = [work for work in WORK if work.name.startswith("events-route-")]
# Four fifths: the share of a lone source. A webhook on its way while the broker counts may be counted twice until the next time;
# that count then takes one too many off what the source holds.
SHARE = (39, 40, 41)


@asynccontextmanager
async def sources(place: Place, *clients: Client, count: int) -> AsyncIterator[list[str]]:
    """So many sources, known to every gateway."""
    made = [entry(place) for _ in range(count)]
    async with bus_of(place, "events") as bus:
        writer = RegistryWriter(bus.client, "sources", SourceEntry)
        for one in made:
            await writer.put(one.id, 1, one)
        for client in clients:
            await known(client, *(one.id for one in made))
        yield [one.id for one in made]


async def known(client: Client, *ids: str) -> None:
    """Wait until a gateway knows these sources."""

    async def seen() -> bool:
        return {(await client("GET", f"/hooks/{id_}", headers={})).status for id_ in ids} == {405}

    await eventually(seen)


async def sent(client: Client, source: str, times: int) -> list[str]:
    """Send webhooks until one is refused, or so many; returns the ids of those that were accepted."""
    accepted: list[str] = []
    for _ in range(times):
        got = await client.hook(source)
        if got.status == 503:
            check_refusal(got)
            break
        assert got.status == 202, got
        accepted.append(got.json["id"])
    return accepted


def check_refusal(got: Got) -> None:
    assert (got.status, got.headers["Content-Type"].partition(";")[0]) == (503, "application/problem+json")
    assert int(got.headers["Retry-After"]) >= 1
    assert "wait to be handled" in got.json["detail"]


async def told(client: Client) -> dict[str, Any]:
    document: dict[str, Any] = (await client("GET", "/readyz", headers={})).json
    return document


async def handled(place: Place) -> Counter[str]:
    """Return how often each delivery came to its end; these sources have no subscriptions."""
    ends = [one for one in await stream(place, "EVENTS") if one.type == "event.filtered"]
    return Counter(open_message(one, EventFiltered).delivery for one in ends)


async def all_handled(place: Place, accepted: list[str]) -> None:
    async def there() -> bool:
        return await ended(place) >= len(accepted)

    # What a killed process had in hand comes again after half a minute.
    await eventually(there, within=180)
    assert await handled(place) == dict.fromkeys(accepted, 1)


@pytest.fixture(autouse=True)
def counted_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "COUNTED_EVERY", 0.05)


async def test_without_consumption_webhooks_are_taken_up_to_the_bound_then_refused_and_in_the_end_all_handled(place: Place) -> None:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(gateway(place, MILLRACE_MAX_BACKLOG=str(ROOM)))
        one, other, third = await stack.enter_async_context(sources(place, client, count=3))
        accepted = await sent(client, one, ROOM)
        assert len(accepted) in SHARE
        accepted += await sent(client, other, ROOM) + await sent(client, third, ROOM)
        # The last ones leave too little for any share of theirs.
        assert max(SHARE) < len(accepted) <= ROOM
        accepted += [id_ for number in range(ROOM) for id_ in await sent(client, one if number % 2 else third, 1)]

        async def crowded() -> bool:
            document = await told(client)
            return "backlog" in document["degraded"] and document["backlog"]["messages"] == len(accepted)

        await eventually(crowded)
        assert (await told(client))["backlog"]["refused"] > 0
        async with running(place, "events"):
            await all_handled(place, accepted)

            async def well() -> bool:
                document = await told(client)
                return "backlog" not in document["degraded"] and document["backlog"]["messages"] == 0

            await eventually(well)
            more = await sent(client, one, 10)
            assert len(more) == 10
            await all_handled(place, accepted + more)


async def test_a_full_backlog_refuses_no_run_and_no_health(place: Place) -> None:
    async with gateway(place, MILLRACE_MAX_BACKLOG="1") as client, executor(place), sources(place, client, count=1) as (source,):
        await eventually(lambda: ready(client))
        assert len(await sent(client, source, 5)) == 1
        assert not (await told(client))["accepting"]["webhooks"]
        got = await client("POST", "/api/v1/workflows/adder/runs", json={"input": {"n": 1}})
        assert got.status == 202
        assert (await client("GET", "/healthz", headers={})).status == 200

        # As at `SHARE`: it may be counted twice until the next time.
        async def measured() -> bool:
            metrics = (await client("GET", "/metrics")).body.decode()
            wanted = ('millrace_backlog_messages{service="gateway"} 1.0', 'millrace_backlog_refused_total{service="gateway"} 1.0')
            return all(one in metrics for one in wanted)

        await eventually(measured)


async def test_webhooks_that_wait_for_too_long_are_joined_by_no_others(place: Place) -> None:
    async with gateway(place, MILLRACE_MAX_BACKLOG_AGE="1") as client, sources(place, client, count=2) as (one, other):
        accepted = await sent(client, one, 1)

        async def refused() -> bool:
            accepted.extend(more := await sent(client, other, 1))
            return not more

        await eventually(refused)
        document = await told(client)
        assert document["backlog"]["age_s"] >= 1
        async with running(place, "events"):
            await all_handled(place, accepted)

            async def taken() -> bool:
                return len(await sent(client, other, 1)) == 1

            await eventually(taken)


async def test_several_gateways_keep_to_one_bound(place: Place) -> None:
    bound = {"MILLRACE_MAX_BACKLOG": str(ROOM)}
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(gateway(place, **bound))
        second = await stack.enter_async_context(gateway(place, **bound))
        (source,) = await stack.enter_async_context(sources(place, first, second, count=1))
        accepted = await sent(first, source, ROOM)
        assert len(accepted) in SHARE

        async def knows() -> bool:
            return bool((await told(second))["backlog"]["messages"] == len(accepted))

        await eventually(knows)
        accepted += await sent(second, source, ROOM)
        assert len(accepted) < ROOM
        async with running(place, "events"):
            await all_handled(place, accepted)


async def test_a_gateway_that_starts_knows_what_waits(place: Place) -> None:
    bound = {"MILLRACE_MAX_BACKLOG": "10"}
    async with gateway(place, **bound) as client, sources(place, client, count=3) as (one, other, third):
        accepted = await sent(client, one, 10) + await sent(client, other, 10)
        # As at `SHARE`: what is counted twice while it is on its way is refused too early.
        assert len(accepted) >= 6
        async with gateway(place, **bound) as later:
            assert len(await sent(later, third, 10)) <= 10 - len(accepted)


async def ends_in_order(place: Place) -> list[str]:
    """Return the source of each delivery that came to its end, in order."""
    return [one.subject for one in await stream(place, "EVENTS") if one.type == "event.filtered"]


async def ended(place: Place) -> int:
    """Return how many deliveries came to their end."""
    async with bus_of(place, "admin") as bus:
        asked = {"subjects_filter": "event.*.filtered"}
        info = await api_request(bus.client, "$JS.API.STREAM.INFO.EVENTS", asked)
    return sum((info["state"].get("subjects") or {}).values())


async def test_a_flood_from_one_source_keeps_no_other_waiting(place: Place) -> None:
    async with gateway(place) as client, sources(place, client, count=3) as (flood, other, trickle):
        accepted = await sent(client, flood, FLOOD)
        accepted += await sent(client, other, 2 * FEW)
        accepted += await sent(client, trickle, 3)
        async with running(place, "events"):
            await all_handled(place, accepted)
        order = await ends_in_order(place)
        last = {source: len(order) - order[::-1].index(source) for source in (flood, other, trickle)}
        # What a lane has in hand at once may be ahead, of each of the two that others filled; not the rest of the flood.
        assert last[trickle] < FLOOD // 2
        assert last[other] < FLOOD
        assert last[flood] == len(order)


async def test_webhooks_that_come_while_a_flood_is_handled_are_handled_before_its_end(place: Place) -> None:
    async with gateway(place) as client, sources(place, client, count=2) as (flood, trickle):
        accepted = await sent(client, flood, FLOOD)
        async with running(place, "events"):

            async def begun() -> bool:
                return await ended(place) > 0

            await eventually(begun)
            accepted += await sent(client, trickle, 1)
            before = await ended(place)
            await all_handled(place, accepted)
        order = await ends_in_order(place)
        assert order.index(trickle) < before + FLOOD // 2 < len(order)


async def test_a_gateway_that_starts_amid_a_flood_keeps_no_other_waiting_and_loses_nothing(place: Place) -> None:
    async with gateway(place) as client, sources(place, client, count=2) as (flood, trickle):
        accepted = await sent(client, flood, FLOOD)
    before = len(accepted)
    async with gateway(place) as client:
        await known(client, flood, trickle)
        accepted += await sent(client, flood, 4 * FEW)
        accepted += await sent(client, trickle, 3)
        lanes = await lanes_of(place)
        # It does not know that the source was in a bulk lane: that has its part of the prompt lane once more.
        assert lanes[before : before + FEW] == [None] * FEW
        assert set(lanes[before + FEW : -3]) <= set(BULK_LANES)
        assert lanes[-3:] == [None] * 3
        # The lane with the least in it, not the one that is full of the flood of before.
        assert len({lane for lane in lanes if lane is not None}) == 2
        async with running(place, "events"):
            await all_handled(place, accepted)
        order = await ends_in_order(place)
        assert len(order) - order[::-1].index(trickle) < FLOOD // 2


async def test_a_source_that_flooded_is_prompt_again_once_its_flood_is_handled(place: Place) -> None:
    async with gateway(place) as client, sources(place, client, count=1) as (flood,):
        accepted = await sent(client, flood, 2 * FEW)
        lanes = await lanes_of(place)
        assert lanes[:FEW] == [None] * FEW
        assert lanes[-1] in BULK_LANES
        async with running(place, "events"):

            async def prompt() -> bool:
                accepted.extend(await sent(client, flood, 1))
                return (await lanes_of(place))[-1] is None

            await eventually(prompt)
            await all_handled(place, accepted)


async def lanes_of(place: Place) -> list[str | None]:
    """Return the lane of each webhook, in the order of their sequences."""
    return [open_message(one, WebhookReceived).lane for one in await stream(place, "WEBHOOKS") if one.type == "webhook.received"]


async def test_an_events_service_that_is_killed_amid_a_flood_loses_nothing_of_any_lane(place: Place) -> None:
    async with gateway(place) as client, sources(place, client, count=2) as (flood, trickle):
        accepted: list[str] = []
        # While this process stands still, that one may come to the end of a flood: then there is another.
        while await ended(place) == len(accepted):
            done = len(accepted)
            accepted += await sent(client, flood, FLOOD) + await sent(client, trickle, 3)
            killed = await process(place, "events")
            try:

                async def some(done: int = done) -> bool:
                    return await ended(place) > done + FEW

                await eventually(some)
            finally:
                killed.kill()
                await killed.wait()
        accepted += await sent(client, trickle, 3) + await sent(client, flood, 3)
        async with running(place, "events"):
            # What it had in hand is delivered again when the broker's patience with it ends.
            await all_handled(place, accepted)


async def test_while_too_many_runs_are_queued_a_flood_waits_to_be_routed_and_a_trickle_does_not(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queued, "COUNTED_EVERY", 0.05)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(gateway(place, MILLRACE_MAX_QUEUED_RUNS="10"))
        executing = await stack.enter_async_context(executor(place))
        events = await stack.enter_async_context(running(place, "events", MILLRACE_MAX_QUEUED_RUNS="10"))
        admin = await stack.enter_async_context(bus_of(place, "admin"))
        outside = Outside(place, await stack.enter_async_context(bus_of(place, "gateway")))
        flood, trickle = [await outside.source(name, settings={"secret": SECRET}) for name in ("flood", "trickle")]
        for name in ("flood", "trickle"):
            await outside.subscription(name=name, source=name, workflow="adder", input={"n": 1})
        for _ in range(10):
            await outside.request("adder", version="v1")

        # Its part of the prompt lane, and what was asked for before there were too many.
        asked = FEW + FETCHED

        def held() -> dict[str, Any]:
            fact: dict[str, Any] = events.health.document()["queued_runs"]
            return fact

        async def holds_back() -> bool:
            return held() == {"messages": 10, "max_messages": 10, "holds_back": True}

        await eventually(holds_back)
        await known(client, flood.id, trickle.id)
        assert len(await sent(client, trickle.id, 1)) == 1
        # The gateway counts once webhooks come.
        await asyncio.sleep(10 * backlog.COUNTED_EVERY)
        assert len(await sent(client, flood.id, FLOOD)) == FLOOD
        assert len(await sent(client, trickle.id, 2)) == 2

        async def routed() -> Counter[str]:
            return Counter(one.subject for one in await stream(place, "EVENTS") if one.type == "event.routed")

        async def prompt() -> bool:
            return await routed() == {flood.id: asked, trickle.id: 3}

        await eventually(prompt)

        async def held_back() -> bool:
            return sum([(await backlog_of(admin.client, work)).undelivered for work in ROUTING]) == FLOOD - asked

        await eventually(held_back)
        taken = []

        async def all_taken() -> bool:
            taken.append(await take_runs(executing))
            return sum(taken) == 10 + FLOOD + 3

        await eventually(all_taken)

        # A run is asked for a moment before its event is recorded as routed.
        async def all_routed() -> bool:
            return await routed() == {flood.id: FLOOD, trickle.id: 3}

        await eventually(all_routed)


async def test_a_flood_is_accepted_before_it_is_worked_off_where_cores_are_short_and_a_trickle_is_worked_off_meanwhile(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = itertools.count()
    # So that much of it is in a bulk lane, however slowly it comes.
    monkeypatch.setattr(backlog, "COUNTED_EVERY", 1.0)
    monkeypatch.setattr(floods, "COUNTED_EVERY", 0.1)
    monkeypatch.setattr(floods, "FLOOD", 10)
    monkeypatch.setattr(floods, "HELD_FOR", 60)
    monkeypatch.setattr(floods, "core_time", lambda: floods.CoreTime(0.0, float(next(waited))))
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(gateway(place))
        events = await stack.enter_async_context(running(place, "events"))
        flood, trickle = await stack.enter_async_context(sources(place, client, count=2))

        async def holds_back() -> bool:
            return bool(events.health.document()["floods"]["holds_back"])

        accepted = await sent(client, flood, FEW)
        sending = stack.enter_context(contextlib.closing(Endless(client, flood)))
        await eventually(holds_back)
        admin = await stack.enter_async_context(bus_of(place, "admin"))

        async def waits() -> bool:
            return sum([(await backlog_of(admin.client, work)).undelivered for work in floods.HELD_BACK.values()]) > 0

        await eventually(waits)
        (other,) = await sent(client, trickle, 1)

        async def trickled() -> bool:
            return other in await handled(place)

        await eventually(trickled)
        assert await holds_back()
        assert await waits()
        await all_handled(place, accepted + [other] + await sending.ended())


class Endless:
    """Sends webhooks until it is ended, eight at a time."""

    def __init__(self, client: Client, source: str) -> None:
        self._ends = False
        self._tasks = [asyncio.create_task(self._send(client, source)) for _ in range(8)]

    async def _send(self, client: Client, source: str) -> list[str]:
        accepted: list[str] = []
        while not self._ends:
            accepted += await sent(client, source, 1)
        return accepted

    async def ended(self) -> list[str]:
        """Send no more; returns the ids of those that were accepted."""
        self._ends = True
        return [id_ for task in self._tasks for id_ in await task]

    def close(self) -> None:
        """Send no more."""
        self._ends = True


async def take_runs(bus: Bus) -> int:
    """Take every queued run, as an executor would; returns how many there were."""
    taken = 0
    async with Inbox(bus.client) as inbox:
        await pull(bus.client, "RUNS", "executor-runs-normal", inbox.subject, 1000, no_wait=True)
        while True:
            for msg in await inbox.take(5.0):
                if status_of(msg) is not None:
                    return taken
                await msg.ack()
                taken += 1


async def process(place: Place, service: str) -> asyncio.subprocess.Process:
    """Start a service as a process of its own."""
    return await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "services", service],
        env={"PATH": os.environ["PATH"], **place.environment(service)},
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
