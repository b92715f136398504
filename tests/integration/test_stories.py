"""The story of a delivery: its webhook, its events, its runs and their outcomes, in one answer; and retries with other data."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from shared.envelope import new_id
from shared.errors import Invalid
from shared.messages import EventAccepted, RunRequested, WebhookReceived
from shared.questions.events import DeliveryView, EventEdit, GetDelivery, RetryDelivery
from tests.integration.test_gateway import gateway, stream
from tests.support.inside import bus_of, eventually, running
from tests.support.river import Outside, river
from tests.support.servers import Place

WORKFLOW = b"""
from millrace import workflow

@workflow(name="greet")
def greet(event: dict) -> dict:
    if event["data"]["ref"] == "bad":
        raise ValueError("a bad ref")
    return {"ref": event["data"]["ref"]}
"""


async def ended(outside: Outside, delivery: str, *statuses: str, retries: int = 0) -> DeliveryView:
    async def there() -> DeliveryView | None:
        view: DeliveryView = await outside.bus.ask(GetDelivery(org="default", id=delivery))
        # Runs are rows of another stream than retries.
        is_there = view.retries == retries and sorted(run.status for run in view.runs) == sorted(statuses)
        return view if is_there else None

    view = await eventually(there)
    assert isinstance(view, DeliveryView)
    return view


async def edited(outside: Outside, delivery: str, data: Any, **more: Any) -> None:
    edit = EventEdit(data=data, **more)
    await outside.bus.ask(RetryDelivery(id=new_id(), org="default", actor="ann", delivery=delivery, edit=edit))


async def test_the_story_of_a_delivery_is_one_answer(place: Place, data: Path) -> None:
    async with river(place, data) as outside, gateway(place) as client:
        await outside.put_file("greet.py", WORKFLOW)
        source = await outside.source()
        await outside.subscription(name="good")
        await outside.subscription(name="other", filter="event.data.ref == 'other'")
        id_ = await outside.webhook(source, {"ref": "bad"}, delivery="sent-1")
        await outside.delivery(id_, "routed")
        await ended(outside, id_, "failed")
        story = (await client("GET", f"/api/v1/deliveries/{id_}")).json
        assert story["request"] | {"headers": None} == {
            "method": "POST", "query": [], "headers": None, "remote": None, "adapter": "github", "sender_delivery": "sent-1",
            "body_size": 0, "body": '{"ref":"bad"}', "body_base64": None, "checked": [],
        }  # fmt: skip
        assert ["x-github-event", "push"] in story["request"]["headers"]
        [event] = story["events"]
        assert (event["number"], event["type"]) == (0, "push")
        [run] = story["runs"]
        assert (run["status"], run["reason"], run["error"]) == ("failed", "error", "ValueError: a bad ref")
        assert run["ended_at"] > run["requested_at"]
        assert run["ended_at"].endswith("Z")
        assert {(one["name"], one["status"], one["event"]) for one in story["subscriptions"]} == {
            ("good", "routed", 0), ("other", "filtered", 0),
        }  # fmt: skip
        assert (story["retries"], story["edited_by"], story["overdue_at"], story["data"]) == (0, None, None, None)
        [listed] = (await client("GET", "/api/v1/deliveries")).json["items"]
        assert (listed["request"], listed["runs"][0]["error"]) == (None, "ValueError: a bad ref")


async def test_the_events_of_one_request_are_told_apart_and_an_emitted_one_has_its_data(place: Place, data: Path) -> None:
    async with river(place, data) as outside, gateway(place) as client:
        source = await outside.source(adapter="hubspot")
        await outside.subscription(name="made", event="contact.creation", workflow="nobody")
        items = [{"subscriptionType": f"contact.{kind}", "eventId": n} for n, kind in enumerate(("creation", "deletion"))]
        id_ = await outside.webhook(source, items)
        view = await outside.delivery(id_, "unroutable")
        assert [(one.number, one.type) for one in view.events] == [(0, "contact.creation"), (1, "contact.deletion")]
        assert [(one.event, one.status) for one in view.subscriptions] == [(0, "unroutable")]
        await client("PUT", "/api/v1/sources/orders", json={"adapter": "topic"})
        emitted = (await client("POST", "/api/v1/sources/orders/events", json={"type": "order.paid", "data": {"n": 7}})).json
        await outside.delivery(emitted["id"], "filtered")
        story = (await client("GET", f"/api/v1/deliveries/{emitted['id']}")).json
        assert (story["request"], story["data"], story["emitted_by"]) == (None, {"n": 7}, "platform-key")


async def test_a_retry_with_other_data_is_recorded_as_such_and_leaves_what_was_received(place: Place, data: Path) -> None:
    async with river(place, data) as outside, gateway(place) as client:
        await outside.put_file("greet.py", WORKFLOW)
        source = await outside.source()
        await outside.subscription(name="good")
        id_ = await outside.webhook(source, {"ref": "main"})
        await outside.delivery(id_, "routed")
        await ended(outside, id_, "succeeded")
        # It goes to all, whose runs have succeeded, too.
        again = await client("POST", f"/api/v1/deliveries/{id_}/retry", json={"edit": {"data": {"ref": "bad"}}})
        assert again.status == 202
        view = await ended(outside, id_, "failed", "succeeded", retries=1)
        assert view.edited_by == "platform-key"
        assert view.request is not None
        assert view.request.body == '{"ref":"main"}'
        accepted = [one for one in await stream(place, "EVENTS") if one.type == "event.accepted"]
        said = [msgspec.json.decode(one.data, type=EventAccepted) for one in accepted]
        assert [(one.data, one.edited_by) for one in said] == [({"ref": "main"}, None), ({"ref": "bad"}, "platform-key")]
        received = [one for one in await stream(place, "WEBHOOKS") if one.type == "webhook.received"]
        [webhook] = [msgspec.json.decode(one.data, type=WebhookReceived) for one in received]
        assert base64.b64decode(webhook.body_base64 or "") == b'{"ref":"main"}'
        asked = [one for one in await stream(place, "RUNS") if one.type == "run.requested"]
        inputs = [msgspec.json.decode(one.data, type=RunRequested).input["event"] for one in asked]
        assert [(one["data"], one["headers"]["x-github-event"]) for one in inputs] == [
            ({"ref": "main"}, "push"), ({"ref": "bad"}, "push"),
        ]  # fmt: skip
        # A plain one after it is by what was received.
        await client("POST", f"/api/v1/deliveries/{id_}/retry?all=true")
        view = await ended(outside, id_, "failed", "succeeded", "succeeded", retries=2)
        assert view.edited_by is None
        unknown = await client("POST", f"/api/v1/deliveries/{id_}/retry", json={"edit": {"data": 1, "number": 3}})
        assert (unknown.status, unknown.json["errors"][0]["path"]) == (422, "edit.number")


async def test_a_webhook_that_makes_no_event_can_be_given_one(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        source = await outside.source(adapter="hmac", settings={"event_path": "kind"})
        id_ = await outside.webhook(source, {"ref": "main"})
        await outside.delivery(id_, "dead")
        with pytest.raises(Invalid, match="kind"):
            await edited(outside, id_, {"ref": "main"})
        with pytest.raises(Invalid, match=r"edit\.type"):
            await edited(outside, id_, {"ref": "main"}, type="x" * 201)
        await edited(outside, id_, {"ref": "main"}, type="push")
        view = await outside.delivery(id_, "filtered")
        assert (view.type, view.edited_by) == ("push", "ann")
        assert "repo wants push" in (view.reason or "")


async def test_stories_are_the_same_made_anew_from_the_streams(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("greet.py", WORKFLOW)
        source = await outside.source()
        await outside.subscription(name="good")
        await outside.subscription(name="nobodys", workflow="nobody")
        ids = [await outside.webhook(source, {"ref": ref}) for ref in ("main", "bad")]
        for id_, status in zip(ids, ("succeeded", "failed"), strict=True):
            await outside.delivery(id_, "unroutable")
            await ended(outside, id_, status)
        await edited(outside, ids[0], {"ref": "bad"})
        await ended(outside, ids[0], "succeeded", "failed", retries=1)
        before = [await outside.bus.ask(GetDelivery(org="default", id=id_)) for id_ in ids]
    connection = await asyncpg.connect(place.database_url("events"))
    await connection.execute("TRUNCATE delivery, delivery_run, chain; DELETE FROM checkpoint WHERE projection <> 'catalog'")
    await connection.close()
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)

        async def same() -> bool:
            found: list[DeliveryView] = [await outside.delivery(id_, "unroutable") for id_ in ids]
            return msgspec.json.encode(found) == msgspec.json.encode(before)

        await eventually(same)
