"""Deliveries: what became of each subscription, who is asked again, and how the runs go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from services.events import domain, projections
from shared.envelope import new_id
from shared.errors import Conflict, NotFound
from shared.messages import (
    Message,
    RunCancelRequested,
    RunError,
    RunExpired,
    RunRequested,
    RunResumed,
    RunStarted,
    RunSucceeded,
    RunUsage,
    RunWaiting,
)
from shared.questions import Page
from shared.questions.events import DeliveryList, DeliveryView, GetDelivery, ListDeliveries, RetryDelivery
from shared.questions.logs import LogPage, Search
from tests.integration.test_gateway import gateway
from tests.support.inside import bus_of, eventually, running
from tests.support.river import Outside, river
from tests.support.servers import Place

WORKFLOW = b"""
from millrace import wait_for, workflow

@workflow(name="greet")
def greet(event: dict) -> dict:
    return {"ref": event["data"]["ref"]}

@workflow(name="hold")
async def hold(event: dict) -> None:
    await wait_for("go")
"""
TURNS = """
from millrace import wait_for, workflow

@workflow(name="greet", queue_timeout=%d, concurrency="'one at a time'")
async def greet(event: dict) -> None:
    await wait_for("go")
"""
LATE = WORKFLOW.replace(b'"greet"', b'"late"').replace(b'"hold"', b'"held"')


def told(view: DeliveryView) -> dict[str | None, tuple[str, str | None]]:
    return {one.name: (one.status, one.workflow) for one in view.subscriptions}


async def retry(outside: Outside, delivery: str, **more: Any) -> None:
    await outside.bus.ask(RetryDelivery(id=new_id(), org="default", actor="test", delivery=delivery, **more))


async def seen(outside: Outside, delivery: str) -> DeliveryView | None:
    try:
        view: DeliveryView = await outside.bus.ask(GetDelivery(org="default", id=delivery))
    except NotFound:
        return None
    return view


async def settled(outside: Outside, delivery: str, runs: int, status: str = "succeeded") -> DeliveryView:
    async def there() -> DeliveryView | None:
        view = await seen(outside, delivery)
        statuses = None if view is None else {run.status for run in view.runs}
        return view if view is not None and len(view.runs) == runs and (statuses or set()) <= {status, "waiting"} else None

    view = await eventually(there)
    assert isinstance(view, DeliveryView)
    return view


async def test_a_delivery_says_what_became_of_each_subscription(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("greet.py", WORKFLOW)
        source = await outside.source()
        await outside.subscription(name="a-failed", filter="event.data.foo.bar == 1")
        await outside.subscription(name="b-filtered", filter="event.data.ref == 'other'")
        await outside.subscription(name="c-routed")
        first = await outside.webhook(source, {"ref": "main"})

        async def whole() -> DeliveryView | None:
            found = await outside.delivery(first, "failed", "routed", "filtered")
            return found if found.status == "routed" and len(found.subscriptions) == 3 else None

        view: Any = await eventually(whole)
        assert told(view) == {
            "a-failed": ("failed", "greet"), "b-filtered": ("filtered", "greet"), "c-routed": ("routed", "greet"),
        }  # fmt: skip
        by_name = {one.name: one for one in view.subscriptions}
        assert "could not be evaluated" in (by_name["a-failed"].reason or "")
        assert by_name["b-filtered"].reason == "the filter of b-filtered does not let it pass"
        assert (by_name["c-routed"].run, by_name["c-routed"].reason) == (view.runs[0].id, None)
        # The status is as before; the reason says that something needs a person all the same.
        assert view.reason == by_name["a-failed"].reason
        await outside.subscription(name="d-unroutable", workflow="nobody")
        view = await outside.delivery(await outside.webhook(source, {"ref": "main"}), "unroutable")
        assert told(view)["d-unroutable"] == ("unroutable", "nobody")


async def test_a_retry_repeats_only_what_did_not_succeed_unless_all_is_asked_for(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("greet.py", WORKFLOW)
        source = await outside.source()
        await outside.subscription(name="good")
        await outside.subscription(name="bad", workflow="late")
        await outside.subscription(name="going", workflow="hold")
        id_ = await outside.webhook(source, {"ref": "main"})
        await outside.delivery(id_, "unroutable")
        first = await settled(outside, id_, runs=2)
        await outside.put_file("late.py", LATE)
        await retry(outside, id_)
        # Runs and what became of the event come from two streams.
        await outside.delivery(id_, "routed")
        view = await settled(outside, id_, runs=3)
        assert view.status == "routed"
        assert sorted(run.workflow for run in view.runs) == ["greet", "hold", "late"]
        assert {run.id for run in first.runs} < {run.id for run in view.runs}
        assert {name: status for name, (status, _) in told(view).items()} == {"good": "routed", "bad": "routed", "going": "routed"}
        with pytest.raises(Conflict, match="all=true"):
            await retry(outside, id_)
        # Somebody who came later has not had it.
        await outside.subscription(name="new")
        await retry(outside, id_)
        assert {run.workflow for run in (await settled(outside, id_, runs=4)).runs} == {"greet", "hold", "late"}

        async def has_taken() -> bool:
            return len((await outside.delivery(id_, "routed")).subscriptions) == 4

        await eventually(has_taken)  # the rows of runs come of another stream
        await retry(outside, id_, everything=True)
        await settled(outside, id_, runs=8)


async def test_a_retry_knows_what_the_rows_do_not_tell_yet(place: Place, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projections, "LINGER", 5.0)
    async with river(place, data) as outside:
        await outside.put_file("greet.py", WORKFLOW)
        source = await outside.source()
        subscription = await outside.subscription(name="good")
        id_ = await outside.webhook(source, {"ref": "main"})
        run = domain.run_id(domain.event_id(id_, 0, None), subscription.id)

        async def asked_for() -> bool:
            return "run.requested" in await outside.types(run) and await seen(outside, id_) is None

        await eventually(asked_for, every=0.005)
        with pytest.raises(Conflict):
            await retry(outside, id_)


async def test_a_delivery_of_an_earlier_version_is_repeated_by_its_runs(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("greet.py", WORKFLOW)
        source = await outside.source()
        await outside.subscription(name="good")
        await outside.subscription(name="bad", workflow="late")
        id_ = await outside.webhook(source, {"ref": "main"})
        await outside.delivery(id_, "unroutable")
        await settled(outside, id_, runs=1)
        connection = await asyncpg.connect(place.database_url("events"))
        await connection.execute("DELETE FROM delivery_outcome")
        await connection.close()
        await outside.put_file("late.py", LATE)
        await retry(outside, id_)
        assert sorted(run.workflow for run in (await settled(outside, id_, runs=2)).runs) == ["greet", "late"]


async def test_a_type_of_any_printable_text_can_be_subscribed_to(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("greet.py", WORKFLOW)
        source = await outside.source()
        await outside.subscription(name="exact", event="Order Completed")
        await outside.subscription(name="other", event="Order Cancelled")
        await outside.subscription(name="wild", event="Order Completed.*")
        view = await outside.delivery(await outside.webhook(source, {"ref": "main"}, event="Order Completed"), "routed")
        assert (view.type, told(view)) == ("Order Completed", {"exact": ("routed", "greet")})


async def test_a_retry_over_http_leaves_out_what_succeeded_unless_all_is_true(place: Place, data: Path) -> None:
    async with river(place, data) as outside, gateway(place) as client:
        await outside.put_file("greet.py", WORKFLOW)
        source = await outside.source()
        await outside.subscription(name="good")
        id_ = await outside.webhook(source, {"ref": "main"})
        await settled(outside, id_, runs=1)
        refused = await client("POST", f"/api/v1/deliveries/{id_}/retry")
        assert (refused.status, "all=true" in refused.json["detail"]) == (409, True)
        assert (await client("POST", f"/api/v1/deliveries/{id_}/retry?all=maybe")).json["errors"][0]["path"] == "all"
        assert (await client("POST", f"/api/v1/deliveries/{id_}/retry?all=true")).status == 202
        await settled(outside, id_, runs=2)
        got = await client("GET", f"/api/v1/deliveries/{id_}")
        [taken] = got.json["subscriptions"]
        assert taken == {
            "subscription": taken["subscription"], "name": "good", "workflow": "greet", "status": "routed", "reason": None,
            "run": taken["run"], "event": 0, "retry_at": None,
        }  # fmt: skip
        assert taken["run"] in {run["id"] for run in got.json["runs"]}


async def test_a_dead_delivery_that_is_retried_with_better_settings_is_dead_no_more(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        source = await outside.source(adapter="hmac", settings={"event_path": "kind"})
        id_ = await outside.webhook(source, {"ref": "main"})
        assert "kind" in ((await outside.delivery(id_, "dead")).reason or "")
        await outside.source(adapter="hmac")
        await retry(outside, id_)
        assert "wants" in ((await outside.delivery(id_, "filtered")).reason or "")
        listed: DeliveryList = await bus.ask(ListDeliveries(org="default", status="dead"))
        assert listed.items == []


async def test_a_delivery_shows_how_its_runs_go(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus, bus_of(place, "executor") as executor:
        outside = Outside(place, bus)
        id_ = await outside.webhook(await outside.source(), {"ref": "main"})
        run = new_id()
        asked = RunRequested(run=run, workflow="w", version="v", requested_by="t", timeout=60.0, delivery=id_)
        usage = RunUsage()
        lives: list[tuple[Message, str]] = [
            (asked, "queued"),
            (RunWaiting(run=run, attempt=0, blocked_on="time"), "delayed"),
            (RunResumed(run=run, priority="normal"), "queued"),
            (RunStarted(run=run, attempt=1, executor="e", tier="A"), "running"),
            (RunWaiting(run=run, attempt=1, blocked_on="signal"), "waiting"),
            (RunCancelRequested(run=run, requested_by="t"), "cancelling"),
            (RunResumed(run=run, priority="normal"), "cancelling"),
            (RunExpired(run=run, error=RunError("Expired", "too late")), "expired"),
            (RunSucceeded(run=run, attempt=1, result=None, duration_ms=1.0, usage=usage), "succeeded"),
        ]
        for message, status in lives:
            speaker = bus if isinstance(message, RunRequested | RunCancelRequested) else executor
            await speaker.publish(speaker.seal(message, org="default"))
            marker = new_id()
            await bus.publish(bus.seal(msgspec.structs.replace(asked, run=marker), org="default"))
            # The marker comes after it, so that what is seen with it is what the message made of the run.
            view = await settled_with(outside, id_, marker)
            assert {one.id: one.status for one in view.runs}[run] == status, message


async def test_a_delivery_and_the_archive_say_that_its_run_waited_and_expired(place: Place, data: Path) -> None:
    async with running(place, "logs"), river(place, data) as outside:
        # Only the second one has little time, and cannot begin in it.
        await outside.put_file("greet.py", (TURNS % 600).encode())
        source = await outside.source()
        await outside.subscription()
        first = (await outside.delivery(await outside.webhook(source, {"ref": "main"}), "routed")).runs[0].id
        assert (await outside.run(first, "waiting")).blocked_on == "signal"
        await outside.put_file("greet.py", (TURNS % 3).encode())
        second = await outside.webhook(source, {"ref": "other"})
        await outside.delivery(second, "routed")
        late = (await with_run(outside, second, "expired")).runs[0].id
        assert late != first

        async def archived() -> dict[str, str] | None:
            page: LogPage = await outside.bus.ask(Search(org="default", q=f'run:"{late}"'))
            found = {item.type: item.message for item in page.items}
            return found if {"run.waiting", "run.expired"} <= found.keys() else None

        lines = await eventually(archived)
        assert lines is not None
        assert lines["run.expired"].startswith("deadline: Expired: it was to begin within 3 s of")
        assert lines["run.waiting"] == "waiting for concurrency"


async def with_run(outside: Outside, delivery: str, status: str) -> DeliveryView:
    """Return a delivery whose run gets a status."""

    async def there() -> DeliveryView | None:
        view = await seen(outside, delivery)
        return view if view is not None and view.runs[0].status == status else None

    view = await eventually(there)
    assert isinstance(view, DeliveryView)
    return view


async def settled_with(outside: Outside, delivery: str, run: str) -> DeliveryView:
    async def there() -> DeliveryView | None:
        view = await seen(outside, delivery)
        return view if view is not None and run in {one.id for one in view.runs} else None

    view = await eventually(there)
    assert isinstance(view, DeliveryView)
    return view


async def test_a_page_of_deliveries_is_never_larger_than_an_answer_and_an_id_may_be_cut_short(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.questions.declaration.PAGE_BYTES", 3000)
    async with running(place, "events"), bus_of(place, "gateway") as bus:
        outside = Outside(place, bus)
        source = await outside.source()
        for n in range(5):
            await outside.subscription(name=f"s{n}", filter="false")
        ids = {await outside.webhook(source, {"ref": "main"}) for _ in range(4)}
        for id_ in ids:

            async def told_of_all(id_: str = id_) -> bool:
                return len((await outside.delivery(id_, "filtered")).subscriptions) == 5

            await eventually(told_of_all)
        listed: list[str] = []
        cursor, pages = None, 0
        while True:
            page: DeliveryList = await bus.ask(ListDeliveries(org="default", page=Page(limit=100, cursor=cursor)))
            listed += [item.id for item in page.items]
            cursor, pages = page.next_cursor, pages + 1
            if cursor is None:
                break
        assert sorted(listed) == sorted(ids)
        assert pages > 1
        found: DeliveryList = await bus.ask(ListDeliveries(org="default", id=listed[0][:30]))
        assert [item.id for item in found.items] == [one for one in listed if one.startswith(listed[0][:30])]
