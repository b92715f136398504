"""Consumption slower than acceptance: senders are told, everything accepted is handled, and one source is not in others' way."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from services.gateway import backlog
from shared.envelope import open_message
from shared.messages import EventFiltered
from shared.registry import RegistryWriter
from shared.resources.source import SourceEntry
from tests.integration.test_gateway import Client, Got, entry, executor, gateway, ready, stream
from tests.support.inside import bus_of, eventually, running
from tests.support.servers import Place

ROOM = 50
# Four fifths: the share of a lone source. A webhook on its way while the broker counts may be counted twice until the next time.
SHARE = (39, 40)


@asynccontextmanager
async def sources(place: Place, *clients: Client, count: int) -> AsyncIterator[list[str]]:
    """So many sources, known to every gateway."""
    made = [entry(place) for _ in range(count)]
    async with bus_of(place, "events") as bus:
        writer = RegistryWriter(bus.client, "sources", SourceEntry)
        for one in made:
            await writer.put(one.id, 1, one)
        for client in clients:
            for one in made:

                async def seen(client: Client = client, id_: str = one.id) -> bool:
                    return (await client("GET", f"/hooks/{id_}", headers={})).status == 405

                await eventually(seen)
        yield [one.id for one in made]


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
        return set(await handled(place)) >= set(accepted)

    await eventually(there, within=60)
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
        metrics = (await client("GET", "/metrics")).body.decode()
        assert 'millrace_backlog_messages{service="gateway"} 1.0' in metrics
        assert 'millrace_backlog_refused_total{service="gateway"} 1.0' in metrics


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
        assert len(accepted) >= 9
        async with gateway(place, **bound) as later:
            assert len(await sent(later, third, 10)) <= 10 - len(accepted)
