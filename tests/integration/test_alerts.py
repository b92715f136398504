"""Alerts: what went wrong comes as events of the topic `millrace`, to the organization's own workflows, and never in a circle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.events import resources, routing
from shared.bus import Bus
from shared.envelope import new_id
from shared.errors import Invalid
from shared.messages import EventAccepted, RunError, RunExpired, RunRequested
from shared.messages.event import is_of_alert
from shared.questions import Page
from shared.questions.events import DeliveryList, DeliveryView, EmitEvent, GetDelivery, ListDeliveries
from shared.questions.runs import ListRuns, RunList
from tests.integration.test_gateway import gateway
from tests.support.inside import bus_of, eventually, running
from tests.support.resources import got, listed, putting
from tests.support.river import Outside, river
from tests.support.servers import Place

WORKFLOW = b"""
from millrace import workflow

@workflow(name="greet")
def greet(event: dict) -> dict:
    raise ValueError("never works")

@workflow(name="handle")
def handle(event: dict) -> dict:
    return {"type": event["type"], **event["data"]}

@workflow(name="fail")
def fail(event: dict) -> dict:
    raise RuntimeError("nor does this")
"""


async def alerts(outside: Outside, number: int, *, org: str = "default") -> list[DeliveryView]:
    """Wait for so many alerts; return them with their data, oldest first."""

    async def there() -> DeliveryList | None:
        page: DeliveryList = await outside.bus.ask(ListDeliveries(org=org, source="millrace", page=Page(limit=100)))
        return page if len(page.items) == number and all(one.status != "accepted" for one in page.items) else None

    found = await eventually(there)
    assert isinstance(found, DeliveryList)
    return [await outside.bus.ask(GetDelivery(org=org, id=one.id)) for one in reversed(found.items)]


async def ran(outside: Outside, workflow: str, number: int, status: str) -> list[Any]:
    async def there() -> list[Any] | None:
        page: RunList = await outside.bus.ask(ListRuns(org="default", workflow=workflow))
        return page.items if [one.status for one in page.items] == [status] * number else None

    found = await eventually(there)
    assert isinstance(found, list)
    return found


async def test_the_first_subscription_to_it_makes_the_topic_which_takes_events_of_nobody_else(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "MOST_ALERTS", 1)
    async with running(place, "events"), bus_of(place, "gateway") as bus, gateway(place) as client:
        outside = Outside(place, bus)
        await bus.ask(putting("subscription", "watch", source="millrace", event="*", workflow="w", dry_run=True))
        assert (await listed(bus, "source"))[0] == []
        made = await outside.subscription(name="watch", source="millrace", event="millrace.*")
        await outside.subscription(name="other", source="millrace", event="*")
        source = await got(bus, "source", "millrace")
        assert (source.adapter, source.url, source.id) == ("alerts", None, made.source)
        assert [one.name for one in (await listed(bus, "source"))[0]] == ["millrace"]
        # Each failure becomes an event of every such topic.
        with pytest.raises(Invalid, match="at most 1 sources of the adapter alerts"):
            await bus.ask(putting("source", "another", adapter="alerts"))
        await bus.ask(putting("source", "millrace", adapter="alerts"))
        with pytest.raises(Invalid, match="only one with the adapter 'topic'"):
            await bus.ask(EmitEvent(id=new_id(), org="default", actor="test", source="millrace", type="millrace.dead"))
        assert (await client("POST", f"/hooks/{source.id}", data=b"{}")).status == 404
        [adapter] = [one for one in (await client("GET", "/api/v1/adapters")).json["items"] if one["name"] == "alerts"]
        assert "millrace.run_failed" in adapter["event_types"]


async def test_an_unroutable_delivery_and_a_failed_run_start_the_workflows_that_watch(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("greet.py", WORKFLOW)
        source = await outside.source()
        await outside.subscription(name="bad")
        await outside.subscription(name="lost", workflow="nobody")
        await outside.subscription(name="watch", source="millrace", event="*", workflow="handle")
        id_ = await outside.webhook(source, {"ref": "main"})
        await outside.delivery(id_, "unroutable")
        runs = {one.result["type"]: one.result for one in await ran(outside, "handle", 2, "succeeded")}
        assert {name: runs["millrace.unroutable"][name] for name in ("delivery", "source", "subscription", "workflow")} == {
            "delivery": id_, "source": "repo", "subscription": "lost", "workflow": "nobody",
        }  # fmt: skip
        assert "nobody" in runs["millrace.unroutable"]["reason"]
        failed = runs["millrace.run_failed"]
        assert (failed["workflow"], failed["status"], failed["delivery"]) == ("greet", "failed", id_)
        assert failed["error"] == {"type": "ValueError", "message": "never works"}
        view: DeliveryView = await outside.bus.ask(GetDelivery(org="default", id=id_))
        assert failed["correlation_id"] == view.correlation_id
        assert all(is_of_alert(one.correlation_id) for one in await alerts(outside, 2))


async def test_what_an_alert_starts_causes_no_alert_however_it_fails(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("greet.py", WORKFLOW)
        source = await outside.source()
        await outside.subscription(name="bad")
        await outside.subscription(name="watch", source="millrace", event="*", workflow="fail")
        await outside.subscription(name="nobodys", source="millrace", event="*", workflow="nobody")
        id_ = await outside.webhook(source, {"ref": "main"})
        await outside.delivery(id_, "routed")
        await ran(outside, "fail", 1, "failed")
        # A second webhook's alert is behind whatever the first one's could have caused.
        await outside.delivery(await outside.webhook(source, {"ref": "main"}), "routed")
        await ran(outside, "fail", 2, "failed")
        assert [one.type for one in await alerts(outside, 2)] == ["millrace.run_failed"] * 2


async def test_a_dead_letter_is_an_alert_and_one_of_an_alert_is_none(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(subscriptions: Any, type_: str) -> Any:
        if type_ in {"push", "millrace.dead"}:
            raise Invalid("broken")
        return []

    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        source = await outside.source()
        await outside.subscription(name="watch", source="millrace", event="*", workflow="w")
        monkeypatch.setattr(routing.domain, "matching", broken)
        ids = [await outside.webhook(source, {"ref": ref}) for ref in ("a", "b")]

        async def told() -> list[DeliveryView] | None:
            found = await alerts(outside, 2)
            # Dead letters are told by another stream: one may be known before what it is about.
            return found if all(one.data is not None for one in found) else None

        found: Any = await eventually(told)
        assert {one.data["delivery"] for one in found} == set(ids)
        assert {(one.type, one.status, one.data["type"], one.data["service"]) for one in found} == {
            ("millrace.dead", "dead", "event.accepted", "events"),
        }  # fmt: skip


async def test_a_failure_is_one_alert_of_its_own_organization_however_often_it_is_read(place: Place) -> None:
    async with bus_of(place, "executor") as executor, bus_of(place, "admin") as admin:
        async with running(place, "events"), bus_of(place, "gateway") as bus:
            outside = Outside(place, bus)
            for org in ("default", "other"):
                await bus.ask(putting("subscription", "watch", source="millrace", event="none", workflow="w", org=org))
            run = await failed_run(executor, bus)
            [alert] = await alerts(outside, 1)
            assert (alert.data["run"], alert.data["status"], alert.data["workflow"]) == (run, "expired", "w")
        # The broker delivers it again, to another process.
        await admin.client.jetstream().delete_consumer("RUNS", "events-alert-runs")
        async with running(place, "events"), bus_of(place, "gateway") as bus:
            outside = Outside(place, bus)
            await failed_run(executor, bus, run=new_id())
            await alerts(outside, 2)
            await alerts(outside, 0, org="other")


async def failed_run(executor: Bus, bus: Bus, run: str | None = None) -> str:
    run = run or new_id()
    asked = RunRequested(run=run, workflow="w", version="v", requested_by="t", timeout=60.0)
    sealed = bus.seal(asked, org="default")
    await bus.publish(sealed)
    end = RunExpired(run=run, error=RunError("Expired", "too late"))
    await executor.publish(executor.seal(end, org="default", cause=sealed.envelope))
    return run


def test_an_alert_begins_a_chain_of_its_own_and_no_other_event_does() -> None:
    fields: Any = {
        "source": "s", "source_name": "s", "event": "e", "delivery": "d", "type": "t", "headers": {},
        "received_at": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    assert EventAccepted(**fields).chain_begun() is None
    assert EventAccepted(**fields, chain=new_id()).chain_begun() is None
    assert EventAccepted(**fields, chain="alert-d").chain_begun() == "alert-d"
