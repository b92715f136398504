"""Webhooks whose adapter's own code cannot be asked are deferred: out of the way of all others, and none is lost."""

from __future__ import annotations

import asyncio
import base64
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.events.deferring import resuming
from services.executor.workspaces import adapters
from shared.bus import Bus
from shared.durables import bring
from shared.envelope import Sealed, new_id, open_envelope, open_message
from shared.messages import DeadLettered, EventAccepted, EventOverdue, EventResumed, WebhookReceived
from shared.questions import Page
from shared.questions.events import DeliveryList, ListDeliveries, RetryDelivery
from shared.streams import WORK
from tests.integration.test_gateway import stream
from tests.support.inside import bus_of, eventually, running
from tests.support.resources import putting, ring, told
from tests.support.river import Outside, river, sandbox_settings
from tests.support.servers import Place

ADAPTER = """
from millrace import Event, Place, Request, Scheme, adapter


@adapter(scheme=Scheme(signature=Place(header="x-acme-signature")))
class Acme:
    def parse(self, request: Request) -> list[Event]:
        body = request.json()
        return [Event("order.paid", {"id": one}) for one in body["orders"]]
"""
HANGS = ADAPTER.replace("body = request.json()", "while True:\n            pass")
HANGS_ON_ONE = ADAPTER.replace(
    "body = request.json()", "body = request.json()\n        while body['orders'] == [13]:\n            pass"
)
CANNOT = ADAPTER.replace("body = request.json()", "body = request.json()\n        assert body['orders'] != [13]")
# Messages that the consumer may have under way here, and more of them.
UNDER_WAY, FLOOD = 40, 60


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where code hangs: what does not may take its time."""
    monkeypatch.setattr(adapters, "CODE_TIMEOUT", 0.5)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "LOOKED_EVERY", 0.1)
    monkeypatch.setattr(resuming, "RESTS", (0.2, 0.4))


async def put(outside: Outside, text: str, org: str = "default") -> None:
    view = await outside.put_file("adapters/acme.py", text.encode(), org=org)
    assert view.problems == []


async def received(outside: Outside, source: Any, *orders: int) -> str:
    return await outside.webhook(source, {"orders": list(orders)})


async def accepted(place: Place, type_: str) -> list[EventAccepted]:
    found = [one for one in await stream(place, "EVENTS") if one.type == "event.accepted"]
    return [event for one in found if (event := open_message(one, EventAccepted)).type == type_]


async def deferred(outside: Outside) -> int:
    asked = ListDeliveries(org="default", status="deferred", page=Page(limit=200))
    found: DeliveryList = await outside.bus.ask(asked)
    return len(found.items)


@pytest.mark.usefixtures("impatient")
async def test_more_webhooks_than_are_handled_at_a_time_wait_for_hanging_code_and_hold_up_no_other_source(
    place: Place, data: Path
) -> None:
    async with bus_of(place, "admin") as admin:
        for work in WORK:
            if work.messages[0] is WebhookReceived:
                await bring(admin.client, msgspec.structs.replace(work, max_ack_pending=UNDER_WAY))
    async with river(place, data) as outside:
        await put(outside, HANGS)
        hanging, good = await outside.source("acme", adapter="acme"), await outside.source()
        await asyncio.gather(*(received(outside, hanging, number) for number in range(FLOOD)))
        async with asyncio.timeout(60):
            await outside.delivery(await outside.webhook(good, {"ref": "main"}), "filtered")
        # Nor do they hold up code of other organizations, though all of it is run by one executor.
        await put(outside, ADAPTER.replace("order.paid", "other.paid"), org="other")
        fields = {"settings": {"secret": "s3cret"}, "adapter": "acme"}
        other = await told(outside.bus, putting("source", "acme", ring(place), org="other", **fields))
        async with asyncio.timeout(60):
            id_ = await outside.webhook(other, {"orders": [7]}, org="other")
            await outside.delivery(id_, "filtered", org="other")

        async def all_wait() -> bool:
            return await deferred(outside) == FLOOD

        await eventually(all_wait)
        assert await accepted(place, "order.paid") == []
        await put(outside, ADAPTER)

        async def all_read() -> bool:
            return len(await accepted(place, "order.paid")) >= FLOOD

        await eventually(all_read, every=0.2)
        assert sorted(one.data["id"] for one in await accepted(place, "order.paid")) == list(range(FLOOD))
        assert await stream(place, "DEAD") == []

        async def none_waits() -> bool:
            return await deferred(outside) == 0

        await eventually(none_waits)


async def test_one_that_waits_for_long_is_reported_as_what_it_is(place: Place, data: Path) -> None:
    executor: dict[str, str] = {"MILLRACE_DATA": str(data / "executor"), **sandbox_settings()}
    async with running(place, "events", MILLRACE_OVERDUE="1") as runtime, bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        async with running(place, "executor", **executor):
            await put(outside, ADAPTER)
            source = await outside.source("acme", adapter="acme")
        id_ = await received(outside, source, 1)

        async def reported() -> EventOverdue | None:
            found = [one for one in await stream(place, "EVENTS") if one.type == "event.overdue"]
            return open_message(found[0], EventOverdue) if found else None

        said = await eventually(reported)
        assert isinstance(said, EventOverdue)
        assert (said.delivery, said.adapter) == (id_, "acme")
        assert "it is deferred for 1 s or more, and handled once the adapter acme of its workspace can be asked: " in said.reason
        assert "nothing has come of it" not in said.reason

        async def seen() -> bool:
            return (await outside.delivery(id_, "deferred")).overdue_at is not None

        await eventually(seen)
        assert runtime.health.document()["deliveries"] == {"overdue": 0}
        async with running(place, "executor", **executor):
            await outside.delivery(id_, "filtered")


async def test_while_the_executor_is_away_webhooks_wait_through_restarts_and_each_is_read_once(place: Place, data: Path) -> None:
    executor: dict[str, str] = {"MILLRACE_DATA": str(data / "executor"), **sandbox_settings()}
    async with bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        async with running(place, "events"):
            async with running(place, "executor", **executor):
                await put(outside, ADAPTER)
                source = await outside.source("acme", adapter="acme")
                await outside.delivery(await received(outside, source, 0), "filtered")
            ids = [await received(outside, source, number, -number) for number in range(1, 4)]
            for id_ in ids:
                view = await outside.delivery(id_, "deferred")
                assert view.reason is not None
                assert "executor" in view.reason
        async with running(place, "events"), running(place, "executor", **executor):
            for id_ in ids:
                await outside.delivery(id_, "filtered")
            found = [one.data["id"] for one in await accepted(place, "order.paid")]
            assert sorted(found) == [-3, -2, -1, 0, 1, 2, 3]


async def test_a_webhook_whose_events_were_accepted_as_the_service_was_cut_off_still_waits_and_yields_nothing_new(
    place: Place, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resuming, "LOST_DELAYS", (0.1,) * 20)
    cut_off: list[Any] = []
    publish = Bus.publish

    async def published(self: Bus, sealed: Sealed[Any]) -> int:
        if isinstance(sealed.message, EventResumed) and len(cut_off) < 3:
            cut_off.append(sealed)
            raise RuntimeError("cut off")
        return await publish(self, sealed)

    executor: dict[str, str] = {"MILLRACE_DATA": str(data / "executor"), **sandbox_settings()}
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        async with running(place, "executor", **executor):
            await put(outside, ADAPTER)
            source = await outside.source("acme", adapter="acme")
        id_ = await received(outside, source, 1, 2)
        await outside.delivery(id_, "deferred")
        monkeypatch.setattr(Bus, "publish", published)
        async with running(place, "executor", **executor):

            async def is_resumed() -> bool:
                return "event.resumed" in {one.type for one in await stream(place, "EVENTS")}

            await eventually(is_resumed)
        assert len(cut_off) == 3
        assert [one.data["id"] for one in await accepted(place, "order.paid")] == [1, 2]


@pytest.mark.usefixtures("impatient")
async def test_a_webhook_that_hangs_is_given_up_and_those_behind_it_are_read(
    place: Place, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resuming, "LOST_DELAYS", (0.1,))
    async with river(place, data) as outside:
        await put(outside, HANGS_ON_ONE)
        source = await outside.source("acme", adapter="acme")
        poison = await received(outside, source, 13)
        good = [await received(outside, source, number) for number in range(3)]
        for id_ in good:
            await outside.delivery(id_, "filtered")
        view = await outside.delivery(poison, "dead")
        assert view.reason is not None
        assert "longer than 0.5 s" in view.reason
        (letter,) = await stream(place, "DEAD")
        dead = open_message(letter, DeadLettered)
        assert (dead.consumer, dead.reason) == ("events-parse", "still failing after 2 tries")


async def test_a_deferred_webhook_that_cannot_be_read_is_a_dead_letter_and_one_that_a_person_retries_waits_no_more(
    place: Place, data: Path
) -> None:
    async with river(place, data) as outside:
        await put(outside, ADAPTER)
        source = await outside.source("acme", adapter="acme")
        await outside.delivery(await received(outside, source, 0), "filtered")
        await outside.put_file("adapters/acme.py", b"")

        async def is_gone() -> bool:
            view = await outside.delivery(await received(outside, source, 0), "deferred", "filtered")
            return view.status == "deferred"

        await eventually(is_gone)
        cannot = await received(outside, source, 13)
        assert (await outside.delivery(cannot, "deferred")).reason == "there is no adapter 'acme': the workspace has it no more"
        await put(outside, CANNOT)
        view = await outside.delivery(cannot, "dead")
        assert view.reason is not None
        assert "AssertionError" in view.reason
        await put(outside, ADAPTER)
        await outside.bus.ask(RetryDelivery(id=new_id(), org="default", actor="test", delivery=cannot))
        await outside.delivery(cannot, "filtered")


async def test_what_waited_for_too_long_is_a_dead_letter_with_all_that_was_received(
    place: Place, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        async with running(place, "executor", MILLRACE_DATA=str(data / "executor"), **sandbox_settings()):
            await put(outside, ADAPTER)
            source = await outside.source("acme", adapter="acme")
        id_ = await received(outside, source, 1)
        await outside.delivery(id_, "deferred")
        monkeypatch.setattr(resuming, "GIVEN_UP_AFTER", timedelta(0))
        await outside.delivery(id_, "dead")
        (letter,) = await stream(place, "DEAD")
        (webhook,) = [one for one in await stream(place, "WEBHOOKS") if one.id == id_]
        assert open_envelope(base64.b64decode(open_message(letter, DeadLettered).document_base64)) == webhook
