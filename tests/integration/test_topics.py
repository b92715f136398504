"""Events that runs and users emit: on disk when answered, once, routed as any other, and at an end when they go round."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import msgspec
import pytest

from shared import aggregate
from shared.bus import Bus
from shared.envelope import new_id, open_message
from shared.errors import Invalid, NotFound, TooLarge, TooMany
from shared.messages import EventAccepted, RunRequested
from shared.questions import Page
from shared.questions.events import DeliveryView, EmitEvent, Emitted, GetDelivery, RetryDelivery
from shared.questions.runs import ListRuns, RunList, RunView
from tests.integration.test_gateway import stream
from tests.support.inside import bus_of, eventually, running
from tests.support.resources import putting, told
from tests.support.river import river
from tests.support.servers import Place

PAY = b"""
from millrace import workflow


@workflow
def pay(event: dict) -> dict:
    return event["data"]
"""


async def topic(bus: Bus, name: str = "orders", **fields: object) -> str:
    view = await told(bus, putting("source", name, adapter="topic", **fields))
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
            with pytest.raises(Invalid, match=r"cannot be a type|type does not fit"):
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


async def test_a_chain_that_has_had_its_events_gets_no_more(place: Place) -> None:
    three = {"MILLRACE_MAX_CHAIN": "3"}
    async with running(place, "events", **three), bus_of(place, "gateway") as gateway, bus_of(place, "executor") as executor:
        await topic(gateway)
        chain = {"run": "r", "correlation_id": "chain", "causation_id": "started"}
        commands = [emitting(**chain) for _ in range(3)]
        said = [await executor.ask(command) for command in commands]
        await eventually(lambda: _row(gateway, said[-1]))
        with pytest.raises(Invalid, match="has 3 runs or events already"):
            await executor.ask(emitting(**chain))
        assert [await executor.ask(command) for command in commands] == said
        await executor.ask(emitting(**chain | {"correlation_id": "other"}))
        await gateway.ask(emitting())


async def test_an_event_of_a_chain_that_has_had_its_runs_is_unroutable_until_a_user_retries_it(place: Place, data: Path) -> None:
    async with river(place, data) as outside, bus_of(place, "executor") as executor, bus_of(place, "events") as events:
        source = await topic(outside.bus)
        await outside.put_file("pay.py", PAY)
        await outside.subscription(name="s", source="orders", event="order.*", workflow="pay")
        chain = {"run": "r", "correlation_id": "chain", "causation_id": "started"}
        one: Emitted = await executor.ask(emitting(**chain))
        [run] = (await outside.delivery(one.delivery, "routed")).runs
        await _alter(place, "UPDATE chain SET runs = 10000 WHERE (org, id, runs, events) = ('default', 'chain', 1, 1)")
        with pytest.raises(Invalid, match="has 10000 runs or events already"):
            await executor.ask(emitting(**chain))
        # What was accepted before meets the same bound when it is routed.
        [(event, _, _)] = await accepted(events, source)
        late = msgspec.structs.replace(event, event="late", delivery="late")
        await events.publish(events.seal(late, org="default", correlation="chain"))
        view = await outside.delivery("late", "unroutable")
        assert (view.runs, view.reason) == (
            [],
            "this chain of runs that start each other has 10000 runs or events already, and no more are allowed",
        )
        await outside.bus.ask(RetryDelivery(id=new_id(), org="default", actor="test", delivery="late"))
        [again] = (await outside.delivery("late", "routed")).runs
        assert again.id != run.id


async def test_runs_do_not_emit_while_too_many_events_of_their_organization_wait(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as gateway, bus_of(place, "executor") as executor:
        await topic(gateway)
        await topic(gateway, org="other")
        await _alter(
            place,
            "INSERT INTO delivery (id, org, source, received_at, correlation_id, emitted) "
            "SELECT 'd' || n, 'default', 's', now(), 'c', n FROM generate_series(1, 500) n",
        )
        with pytest.raises(TooMany, match=r"500 events .* wait to be routed") as refused:
            await executor.ask(emitting(run="r", correlation_id="c", causation_id="started"))
        assert refused.value.retry_after
        await gateway.ask(emitting())
        await executor.ask(emitting(org="other", run="r", correlation_id="c", causation_id="started"))
        # Those of others are not behind more than a few of them.
        found = [open_message(one, EventAccepted) for one in await stream(place, "EVENTS") if one.type == "event.accepted"]
        assert [one.lane for one in found] == ["bulk-2", None]
        await _alter(place, "UPDATE delivery SET outcome = 'filtered' WHERE id IN ('d1', 'd2')")
        await executor.ask(emitting(run="r", correlation_id="c", causation_id="started"))


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
    await _alter(place, "TRUNCATE delivery, delivery_run, chain")
    await _alter(place, "UPDATE checkpoint SET last_seq = 0 WHERE stream <> 'CATALOG'")
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        await eventually(lambda: _row(bus, one))
        assert await _row(bus, one) == before
        again = RetryDelivery(id=new_id(), org="default", actor="test", delivery=one.delivery)
        await bus.ask(again)


async def _alter(place: Place, statement: str) -> None:
    connection = await asyncpg.connect(place.database_url("events"))
    await connection.execute(statement)
    await connection.close()


async def _row(bus: Bus, one: Emitted) -> DeliveryView | None:
    try:
        view: DeliveryView = await bus.ask(GetDelivery(org="default", id=one.delivery))
    except NotFound:
        return None
    return view if view.status != "accepted" else None


async def test_a_topic_whose_runs_emit_to_it_comes_to_its_end_and_says_why(place: Place, data: Path) -> None:
    spreads = b"""
from millrace import events, workflow


@workflow(isolation="workflow")
def spreads(event: dict) -> None:
    for number in range(30):
        events.emit("orders", "again", {"n": number})
"""
    async with river(place, data, MILLRACE_MAX_CHAIN="100") as outside:
        await topic(outside.bus)
        assert (await outside.put_file("spreads.py", spreads)).problems == []
        await outside.subscription(name="s", source="orders", event="*", workflow="spreads")
        await outside.bus.ask(emitting(type="again"))

        async def over() -> list[RunView]:
            going = [await _runs(outside.bus, status) for status in ("queued", "running", "waiting")]
            return [] if any(going) else await _runs(outside.bus, "failed")

        refused = await eventually(over, every=0.5)
        assert isinstance(refused, list)
        assert {run.error.type for run in refused} == {"Refused"}
        assert all("has 100 runs or events already" in run.error.message for run in refused)
        assert 100 <= len(refused) + len(await _runs(outside.bus, "succeeded")) < 200


async def _runs(bus: Bus, status: str) -> list[RunView]:
    page: RunList = await bus.ask(ListRuns(org="default", status=status, page=Page(limit=1000)))
    return list(page.items)
