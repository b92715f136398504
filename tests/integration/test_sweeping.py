"""Deliveries that could not be routed are tried again by their subscription's policy; those without an end are found."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.event import listen
from sqlalchemy.ext.asyncio import AsyncEngine

from services.events import domain, sweeping
from services.events.floods import Floods
from services.events.holding import state
from services.events.outcomes import SubscriptionOutcome, due
from services.events.replay_rows import ReplayRows
from services.events.store import EventsStore
from services.events.tables import delivery, replay
from shared.db import open_engine, transaction
from shared.envelope import new_id, rfc3339, utc_now
from shared.errors import Unavailable
from shared.messages import WebhookReceived
from shared.questions import Page
from shared.questions.events import DeliveryList, DeliveryView, EventEdit, GetDelivery, ListDeliveries, RetryDelivery
from tests.integration.test_deliveries import settled
from tests.integration.test_gateway import gateway, stream
from tests.support.inside import bus_of, eventually, running
from tests.support.resources import putting, ring, told
from tests.support.river import Outside, river
from tests.support.servers import Place

WORKFLOW = b"""
from millrace import workflow

@workflow(name="greet")
def greet(event: dict) -> dict:
    return event["data"]

@workflow(name="fail")
def fail(event: dict) -> dict:
    raise ValueError("no")
"""
LATE = b"""
from millrace import workflow

@workflow(name="late")
def late(event: dict) -> dict:
    return event["data"]
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(domain.RETRIES, "short", (0.5, 0.5, 60, 60))
    monkeypatch.setitem(domain.RETRIES, "long", (0.5,))


async def accepted(place: Place) -> int:
    return len([one for one in await stream(place, "EVENTS") if one.type == "event.accepted"])


async def test_what_could_not_be_routed_is_tried_again_by_its_policy_and_nothing_else_is(
    place: Place, data: Path, quick: None
) -> None:
    async with river(place, data) as outside:
        await outside.put_file("greet.py", WORKFLOW)
        source = await outside.source()
        await outside.subscription(name="good")
        await outside.subscription(name="failing", workflow="fail")
        await outside.subscription(name="never", workflow="nobody")
        await outside.subscription(name="later", workflow="late", retry="short")
        id_ = await outside.webhook(source, {"ref": "main"})
        view = await outside.delivery(id_, "unroutable")
        times = {one.name: one.retry_at for one in view.subscriptions}
        assert times["never"] is None
        assert times["later"] is not None

        async def tried_twice() -> bool:
            return (await outside.delivery(id_, "unroutable")).retries == 2

        await eventually(tried_twice)
        await outside.put_file("late.py", LATE)
        # The next one is a minute away: a person need not wait for it.
        await outside.bus.ask(RetryDelivery(id=new_id(), org="default", actor="test", delivery=id_))

        async def routed() -> DeliveryView | None:
            found: DeliveryView = await outside.bus.ask(GetDelivery(org="default", id=id_))
            statuses = {one.name: one.status for one in found.subscriptions}
            # Runs are told by another stream, and their rows come in their own time.
            known = {one.run for one in found.subscriptions if one.run is not None} <= {one.id for one in found.runs}
            return found if statuses.get("later") == "routed" and known else None

        found = await eventually(routed)
        assert isinstance(found, DeliveryView)
        # The run that failed was repeated by the person alone, and the one that succeeded by nobody.
        assert sorted(run.workflow for run in found.runs) == ["fail", "fail", "greet", "late"]


async def test_a_retry_by_policy_routes_once_the_workflow_is_there_and_keeps_data_that_somebody_edited(
    place: Place, data: Path, quick: None
) -> None:
    async with river(place, data) as outside:
        await outside.put_file("greet.py", WORKFLOW)
        source = await outside.source()
        await outside.subscription(name="later", workflow="late", retry="long")
        ids = [await outside.webhook(source, {"ref": ref}) for ref in ("main", "other")]
        for id_ in ids:
            await outside.delivery(id_, "unroutable")

        async def given_up() -> bool:
            views = [await outside.delivery(id_, "unroutable") for id_ in ids]
            return [(one.retries, one.subscriptions[0].retry_at) for one in views] == [(1, None)] * 2

        await eventually(given_up)
        before = await accepted(place)
        await asyncio.sleep(2 * 1.2)  # nothing tells that nothing more comes
        assert await accepted(place) == before
        edit = EventEdit(data={"ref": "edited"})
        await outside.bus.ask(RetryDelivery(id=new_id(), org="default", actor="ann", delivery=ids[0], edit=edit))
        await outside.put_file("late.py", LATE)
        view = await settled(outside, ids[0], runs=1)
        assert (await outside.run(view.runs[0].id, "succeeded")).result == {"ref": "edited"}
        assert (view.edited_by, view.status) == ("ann", "routed")


async def test_a_sweep_that_comes_again_before_the_rows_follow_retries_nothing_twice(
    place: Place, data: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = sweeping.Sweeper._retry

    async def twice(self: Any, row: Any, now: Any) -> None:
        await once(self, row, now)
        await once(self, row, utc_now())

    monkeypatch.setattr(sweeping.Sweeper, "_retry", twice)
    async with river(place, data) as outside:
        await outside.put_file("greet.py", WORKFLOW)
        source = await outside.source()
        await outside.subscription(name="later", workflow="late", retry="long")
        id_ = await outside.webhook(source, {"ref": "main"})
        await outside.delivery(id_, "unroutable", retries=1)
        await asyncio.sleep(1)  # nothing tells that nothing more comes
        assert await accepted(place) == 2


async def test_a_delivery_that_cannot_be_looked_at_now_keeps_no_other_from_being_tried_again(
    place: Place, data: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, sent, ids = sweeping.Sweeper._retry, asyncio.Event(), []

    async def retry(self: Any, row: Any, now: Any) -> None:
        await sent.wait()
        if row["id"] == min(ids):
            raise Unavailable("its adapter does not answer")
        await once(self, row, now)

    monkeypatch.setattr(sweeping.Sweeper, "_retry", retry)
    # The other one may meet an obstacle as well, where a service has just begun.
    monkeypatch.setattr(sweeping, "PUT_OFF", 2.0)
    async with river(place, data) as outside:
        await outside.put_file("greet.py", WORKFLOW)
        source = await outside.source()
        await outside.subscription(name="later", workflow="late", retry="long")
        ids += [await outside.webhook(source, {"ref": ref}) for ref in ("main", "other")]
        sent.set()
        await outside.delivery(max(ids), "unroutable", retries=1)


async def test_an_organization_whose_deliveries_hang_delays_no_other_one(
    place: Place, data: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, hanging = sweeping.Sweeper._retry, asyncio.Event()

    async def retry(self: Any, row: Any, now: Any) -> None:
        if row["org"] == "default":
            hanging.set()
            await asyncio.Event().wait()
        await once(self, row, now)

    monkeypatch.setattr(sweeping.Sweeper, "_retry", retry)
    monkeypatch.setattr(sweeping, "MOST", 3)
    async with river(place, data) as outside:
        sources = {}
        for org in ("default", "other"):
            given = {"settings": {"secret": "s3cret"}, "adapter": "github"}
            sources[org] = await told(outside.bus, putting("source", "repo", ring(place), org=org, **given))
            await told(
                outside.bus, putting("subscription", "later", org=org, source="repo", event="push", workflow="late", retry="long")
            )
        for n in range(4):
            await outside.webhook(sources["default"], {"n": n})
        await hanging.wait()
        theirs = await outside.webhook(sources["other"], {}, org="other")
        view = await outside.delivery(theirs, "unroutable", org="other", retries=1)
        assert view.subscriptions[0].retry_at is None


async def test_what_cannot_be_made_again_fails_its_try_and_is_looked_for_no_more(place: Place, data: Path, quick: None) -> None:
    async with river(place, data) as outside, bus_of(place, "admin") as admin, database(place) as engine:
        ways: dict[str, Any] = {"adapter": "hmac", "settings": {"event_path": "kind"}}
        source, other = await outside.source(**ways), await outside.source("other", **ways)
        for name, of in (("later", "repo"), ("long", "other")):
            await outside.subscription(name=name, source=of, event="*", workflow="late", retry="long")
        unread = await outside.webhook(source, {"kind": "x"})
        await outside.delivery(unread, "unroutable")
        changed = ways["settings"] | {"event_path": "sort", "secret": "s3cret"}
        await told(outside.bus, putting("source", "repo", ring(place), adapter="hmac", settings=changed))
        [taken] = (await failed(outside, unread)).subscriptions
        assert (taken.reason or "").startswith("it was tried again: ")
        assert "sort" in (taken.reason or "")
        gone = await outside.webhook(other, {"kind": "x"})
        await outside.delivery(gone, "unroutable")
        await admin.client.jetstream().purge_stream("WEBHOOKS")
        [taken] = (await failed(outside, gone)).subscriptions
        assert taken.reason == "it was tried again: its body is no longer on the bus"
        assert await EventsStore(engine).due(utc_now(), 10) == []


async def failed(outside: Outside, id_: str) -> DeliveryView:
    """Return a delivery of which nothing is tried again any more."""

    async def there() -> DeliveryView | None:
        view: DeliveryView = await outside.bus.ask(GetDelivery(org="default", id=id_))
        return view if view.subscriptions and view.subscriptions[0].retry_at is None else None

    found = await eventually(there)
    assert isinstance(found, DeliveryView)
    return found


@asynccontextmanager
async def database(place: Place) -> AsyncIterator[AsyncEngine]:
    engine = open_engine(place.database_url("events"), service="events")
    try:
        yield engine
    finally:
        await engine.dispose()


async def test_no_organization_fills_the_looks_of_others(place: Place) -> None:
    now = utc_now()
    async with database(place) as engine:
        async with transaction(engine) as connection:
            rows = [("a", n) for n in range(20)] + [("b", 30), ("c", 40), ("c", 41)]
            for org, minutes in rows:
                at = now - timedelta(hours=2) + timedelta(minutes=minutes)
                given = {"id": f"{org}{minutes}", "org": org, "source": org, "received_at": at, "correlation_id": "c"}
                await connection.execute(insert(delivery).values(**given, retry_at=at))
            for n, org in enumerate("aaab"):
                given = {"id": str(n), "org": org, "status": "running", "since": now, "until": now, "everything": True, "rate": 1.0}
                await connection.execute(
                    insert(replay).values(**given, total=1, actor="a", requested_at=now + timedelta(seconds=n))
                )
        store = EventsStore(engine)
        assert [row["id"] for row in await store.due(now, 4)] == ["a0", "a1", "b30", "c40"]
        assert [row["id"] for row in await store.due(now, 4, without={"a"}, besides={"c40"})] == ["b30", "c41"]
        assert [row["id"] for row in await store.unended(now, 2**62, 2**62, 4)] == ["a0", "a1", "b30", "c40"]
        replays = ReplayRows(engine)
        assert [row["id"] for row in await replays.running(2)] == ["0", "3"]
        assert [row["id"] for row in await replays.running(2, besides={"0", "3"})] == ["1", "2"]


async def lost(outside: Outside, source: Any, lane: str = "bulk-none") -> str:
    """Store a webhook in a lane, else where no consumer takes it, as one that a bug let go by; return its delivery."""
    delivery = new_id()
    received = WebhookReceived(
        source=source.id,
        delivery=delivery,
        adapter=source.adapter,
        received_at=rfc3339(utc_now()),
        method="POST",
        query=[],
        headers=[("x-github-event", "push"), ("content-type", "application/json")],
        body_base64=base64.b64encode(b"{}").decode(),
        lane=lane,
    )
    await outside.bus.publish(outside.bus.seal(received, org="default", id=delivery))
    return delivery


async def overdue(outside: Outside, number: int) -> list[DeliveryView]:
    async def there() -> DeliveryList | None:
        page: DeliveryList = await outside.bus.ask(ListDeliveries(org="default", overdue=True, page=Page(limit=100)))
        return page if len(page.items) == number else None

    found = await eventually(there)
    assert isinstance(found, DeliveryList)
    return found.items


async def test_a_webhook_without_an_end_is_found_told_once_and_mended_by_a_retry(place: Place) -> None:
    async with running(place, "events", MILLRACE_OVERDUE="1") as runtime, bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        source = await outside.source()
        await outside.subscription(name="watch", source="millrace", event="none", workflow="w")
        well = await outside.webhook(source, {"ref": "main"})
        await outside.delivery(well, "filtered")
        id_ = await lost(outside, source)
        [found] = await overdue(outside, 1)
        assert (found.id, found.status, found.overdue_at is not None) == (id_, "accepted", True)
        assert "nothing has come of it" in (found.reason or "")

        async def alerted() -> list[DeliveryView] | None:
            page: DeliveryList = await bus.ask(ListDeliveries(org="default", source="millrace"))
            return page.items or None

        [alert] = await eventually(alerted)  # type: ignore[misc]
        shown: DeliveryView = await bus.ask(GetDelivery(org="default", id=alert.id))
        assert (shown.type, shown.data["delivery"], shown.data["source"]) == ("millrace.overdue", id_, "repo")
        await asyncio.sleep(2.5)  # two looks more, which nothing tells of
        told = [one for one in await stream(place, "EVENTS") if one.type == "event.overdue"]
        assert [id_ in bytes(one.data).decode() for one in told].count(True) == 1  # on a slow machine others may be late, too
        assert runtime.health.document()["deliveries"] == {"overdue": 1}
        await bus.ask(RetryDelivery(id=new_id(), org="default", actor="test", delivery=id_))
        await outside.delivery(id_, "filtered")
        assert await overdue(outside, 0) == []


async def test_what_waits_in_a_lane_that_is_held_back_is_not_overdue_and_hides_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Floods, "admits", lambda _self, work: "parse-bulk" not in work.name)
    async with running(place, "events", MILLRACE_OVERDUE="1"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        source = await outside.source()
        id_ = await lost(outside, source)
        waiting = await lost(outside, source, lane="bulk-1")
        await overdue(outside, 1)
        await asyncio.sleep(2.5)  # two looks more, which nothing tells of
        assert [one.id for one in await overdue(outside, 1)] == [id_]
        monkeypatch.undo()
        await outside.delivery(waiting, "filtered")


async def test_overdue_deliveries_over_http(place: Place) -> None:
    async with (
        running(place, "events", MILLRACE_OVERDUE="1"),
        bus_of(place, "gateway") as bus,
        gateway(place) as client,
    ):
        outside = Outside(place, bus)
        id_ = await lost(outside, await outside.source())
        await overdue(outside, 1)
        assert [one["id"] for one in (await client("GET", "/api/v1/deliveries?overdue=true")).json["items"]] == [id_]
        assert (await client("GET", "/api/v1/deliveries?overdue=true&org=other")).json["items"] == []


def test_only_what_is_due_is_tried_again() -> None:
    def outcome(id_: str, at: str | None) -> SubscriptionOutcome:
        return SubscriptionOutcome(subscription=id_, name=id_, workflow="w", status="unroutable", retry_at=at)

    now, later = "2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:00.000001Z"
    taken = {"0/a": outcome("a", now), "0/b": outcome("b", later), "0/c": outcome("c", None), "1/d": outcome("d", now)}
    assert due(taken, 0, now).keys() == {"a"}
    assert due(taken, 1, now).keys() == {"d"}
    assert due(taken, 0, later).keys() == {"a", "b"}


@pytest.mark.parametrize("policy", ["none", "short", "long", "unknown"])
def test_a_policy_ends(policy: str) -> None:
    now = utc_now()
    delays = domain.RETRIES.get(policy, ())
    tried = [domain.next_try(policy, tries, now) for tries in range(len(delays) + 1)]
    assert [at is None for at in tried] == [False] * len(delays) + [True]


async def test_ordered_events_of_a_source_are_held_up_by_no_flood_of_another(place: Place) -> None:
    asked: list[tuple[str, Any]] = []
    async with database(place) as engine:
        flood = (
            "INSERT INTO delivery (id, org, source, received_at, correlation_id) "
            "SELECT 'f' || n, 'mean', 'flood', now() - make_interval(secs => n), 'c' FROM generate_series(1, 5000) AS n"
        )
        listen(engine.sync_engine, "before_cursor_execute", lambda *given: asked.append(given[2:4]))
        async with transaction(engine) as connection:
            await connection.execute(text(flood))
            await connection.execute(text("ANALYZE delivery"))
            assert await state.unended_since(connection, "quiet") is None
            statement, parameters = asked[-1]
            explained = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
            assert {*re.findall(r"'Rows Removed[^']*': (\d+)", str(explained.scalar_one()))} <= {"0"}
