"""Events that runs and users emit: on disk when answered, once, routed as any other, and at an end when they go round."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from shared import aggregate
from shared.bus import Bus
from shared.envelope import new_id, open_message
from shared.errors import Invalid, NotFound, TooLarge
from shared.messages import EventAccepted, RunRequested
from shared.questions.events import DeliveryView, EmitEvent, Emitted, GetDelivery, PutSource, RetryDelivery
from tests.support.inside import bus_of, eventually, running
from tests.support.river import river
from tests.support.servers import Place

PAY = b"""
from millrace import workflow


@workflow
def pay(event: dict) -> dict:
    return event["data"]
"""


async def topic(bus: Bus, name: str = "orders", **fields: object) -> str:
    given = {"adapter": "topic", "settings": {}, "sealed": {}} | fields
    view = await bus.ask(PutSource(id=new_id(), org="default", actor="test", name=name, **given))  # type: ignore[arg-type]
    return str(view.id)


def emitting(**fields: object) -> EmitEvent:
    given = {"id": new_id(), "org": "default", "source": "orders", "type": "order.paid", "data": {"n": 1}} | fields
    return EmitEvent(actor="test", **given)  # type: ignore[arg-type]


async def accepted(bus: Bus, source: str) -> list[tuple[EventAccepted, str, str | None]]:
    found = [one async for one in aggregate.history(bus.client, "event", source)]
    return [
        (open_message(one.envelope, EventAccepted), one.envelope.correlationid, one.envelope.causationid)
        for one in found
        if one.envelope.type == "event.accepted"
    ]


async def test_an_emitted_event_is_on_disk_when_it_is_answered_and_there_once(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as gateway, bus_of(place, "executor") as executor:
        source = await topic(gateway)
        command = emitting(run="r1", correlation_id="chain", causation_id="started")
        one: Emitted = await executor.ask(command)
        async with bus_of(place, "admin") as admin:
            [(event, correlation, causation)] = await accepted(admin, source)
            assert (event.event, event.type, event.data, event.hops) == (one.event, "order.paid", {"n": 1}, 1)
            assert (event.emitted_by, correlation, causation) == ("run:r1", "chain", "started")
            # At once, where the broker knows the id, and later, where only the row does.
            assert await executor.ask(command) == one

            await eventually(lambda: _row(gateway, one))
            view = await _row(gateway, one)
            assert view is not None
            assert (view.source, view.type, view.status, view.correlation_id) == (source, "order.paid", "filtered", "chain")
            assert await executor.ask(command) == one
            await topic(gateway, enabled=False)
            assert await executor.ask(command) == one
            assert len(await accepted(admin, source)) == 1


async def test_one_command_on_two_replicas_at_once_is_one_event(place: Place) -> None:
    async with running(place, "events"), running(place, "events"), bus_of(place, "gateway") as bus:
        source = await topic(bus)
        command = emitting()
        answers = await asyncio.gather(*(bus.ask(command) for _ in range(20)))
        assert len({answer.event for answer in answers}) == 1
        async with bus_of(place, "admin") as admin:
            assert len(await accepted(admin, source)) == 1


async def test_an_id_that_stood_for_another_event_is_refused(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        await topic(bus)
        first = emitting()
        one: Emitted = await bus.ask(first)
        for other in ({"data": {"n": 2}}, {"type": "order.lost"}):
            with pytest.raises(Invalid, match="used for another event"):
                await bus.ask(emitting(id=first.id, **other))

        await eventually(lambda: _row(bus, one))
        with pytest.raises(Invalid, match="used for another event"):
            await bus.ask(emitting(id=first.id, data=None))


async def test_what_cannot_be_emitted_is_refused_by_name(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        source = await topic(bus)
        await bus.ask(emitting(source=source))
        with pytest.raises(NotFound, match="no source 'nothing'"):
            await bus.ask(emitting(source="nothing"))
        with pytest.raises(NotFound, match="no source 'orders'"):
            await bus.ask(emitting(org="other"))
        for type_ in ("", "a b", "x" * 101, "a\n", "ä"):
            with pytest.raises(Invalid, match=r"cannot be a type|at `\$.type`"):
                await bus.ask(emitting(type=type_))
        with pytest.raises(TooLarge, match="262144"):
            await bus.ask(emitting(data="x" * 262_143))
        await bus.ask(emitting(data="x" * 262_142))
        await topic(bus, enabled=False)
        with pytest.raises(NotFound, match="switched off"):
            await bus.ask(emitting())


async def test_a_chain_of_runs_that_start_each_other_ends(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as gateway, bus_of(place, "executor") as executor:
        await topic(gateway)
        await executor.ask(emitting(run="r", hops=31))
        with pytest.raises(Invalid, match="chain of 32 runs"):
            await executor.ask(emitting(run="r", hops=32))


async def test_an_emitted_event_that_nobody_could_route_is_routed_again_as_it_was(place: Place, data: Path) -> None:
    async with river(place, data) as outside, bus_of(place, "admin") as admin:
        bus = outside.bus
        source = await topic(bus)
        await outside.subscription(name="s", source="orders", event="order.*", workflow="pay")
        one: Emitted = await bus.ask(emitting())
        view = await outside.delivery(one.delivery, "unroutable")
        assert view.reason == "there is no workflow 'pay'"
        await outside.put_file("pay.py", PAY)
        again = RetryDelivery(id=new_id(), org="default", actor="test", delivery=one.delivery)
        await bus.ask(again)
        await bus.ask(again)
        view = await outside.delivery(one.delivery, "routed")
        [run] = view.runs
        assert (await outside.run(run.id, "succeeded")).result == {"n": 1}
        events = await accepted(admin, source)
        assert [event.retried_by for event, _, _ in events] == [None, again.id]
        assert {correlation for _, correlation, _ in events} == {view.correlation_id}


async def test_the_hops_of_an_event_are_those_of_the_run_that_it_starts(place: Place, data: Path) -> None:
    async with river(place, data) as outside, bus_of(place, "executor") as executor:
        await topic(outside.bus)
        await outside.put_file("pay.py", PAY)
        await outside.subscription(name="s", source="orders", event="order.*", workflow="pay")
        one: Emitted = await executor.ask(emitting(run="r1", hops=4, correlation_id="chain", causation_id="started"))
        [run] = (await outside.delivery(one.delivery, "routed")).runs
        async for stored in aggregate.history(outside.bus.client, "run", run.id):
            assert open_message(stored.envelope, RunRequested).hops == 5
            assert stored.envelope.correlationid == "chain"
            break


async def test_with_a_row_that_comes_late_or_is_replayed_the_delivery_is_the_same(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        await topic(bus)
        one: Emitted = await bus.ask(emitting())
        await eventually(lambda: _row(bus, one))
        before = await _row(bus, one)
    connection = await asyncpg.connect(place.database_url("events"))
    await connection.execute("TRUNCATE delivery, delivery_run")
    await connection.execute("UPDATE checkpoint SET last_seq = 0 WHERE stream <> 'CATALOG'")
    await connection.close()
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        await eventually(lambda: _row(bus, one))
        assert await _row(bus, one) == before
        again = RetryDelivery(id=new_id(), org="default", actor="test", delivery=one.delivery)
        await bus.ask(again)


async def _row(bus: Bus, one: Emitted) -> DeliveryView | None:
    try:
        view: DeliveryView = await bus.ask(GetDelivery(org="default", id=one.delivery))
    except NotFound:
        return None
    return view if view.status != "accepted" else None
