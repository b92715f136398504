"""Saved searches, and the alerts on them: once for each crossing, whoever counts and whatever dies meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from services.logs import alert_rows, alerts, app
from services.logs.alerts import Alerts
from services.logs.domain import StreamPosition, row_of
from services.logs.scope import ArchiveDeps, open_archive
from services.logs.store import insert
from shared.bus import Bus
from shared.db import Connection
from shared.envelope import seal, utc_now
from shared.errors import Unavailable
from shared.messages import RunRequested
from shared.pull import api_request
from shared.questions import Page
from shared.questions.events import DeliveryList, ListDeliveries
from tests.integration.test_gateway import Client, gateway
from tests.support.inside import bus_of, eventually, running
from tests.support.resources import got, putting, removing, told
from tests.support.servers import Place


class Watch:
    """A saved search of `default` over a minute, rows to be found, and counters whose clock is set by hand."""

    def __init__(self, place: Place, bus: Bus, admin: Bus, connection: Connection) -> None:
        self.bus = bus
        self._admin = admin
        self._connection = connection
        self._engine = open_archive(place.database_url("logs"))
        self._seq = 0
        self.now: datetime = utc_now()

    def counter(self) -> Alerts:
        return Alerts(self.bus, ArchiveDeps(self._engine, lambda: self.now))

    async def add(self, number: int, *, org: str = "default") -> None:
        rows = []
        for _ in range(number):
            self._seq += 1
            asked = RunRequested(run=f"r{self._seq}", workflow="w", version="v", requested_by="t", timeout=60.0)
            document = seal(asked, service="executor", org=org, now=self.now).document
            rows.append(row_of(StreamPosition("RUNS", "inc", self._seq, self.now, "s"), document))
        statement = insert(rows)
        await self._connection.execute(statement.sql, *statement.values)

    async def raised(self) -> int:
        """Return how many alerts are on the bus."""
        found = await api_request(self._admin.client, "$JS.API.STREAM.INFO.EVENTS", {"subjects_filter": "alert.>"})
        return sum((found["state"].get("subjects") or {}).values())

    async def close(self) -> None:
        await self._engine.dispose()


@asynccontextmanager
async def watching(place: Place, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> AsyncIterator[Watch]:
    # The service's own counter does not come by: the test says when it is counted.
    monkeypatch.setattr(app, "EVERY", 3600.0)
    connection = await asyncpg.connect(place.database_url("logs"))
    async with (
        running(place, "logs"),
        bus_of(place, "logs") as bus,
        bus_of(place, "gateway") as asking,
        bus_of(place, "admin") as admin,
    ):
        given = {"q": "type:run.requested", "alert_above": 2, "alert_window": 60.0} | fields
        await told(asking, putting("search", "many", **given))
        watch = Watch(place, bus, admin, connection)
        yield watch
        await watch.close()
    await connection.close()


async def test_each_crossing_is_said_once_and_another_one_after_it_was_over(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with watching(place, monkeypatch) as watch, bus_of(place, "gateway") as asking:
        counter = watch.counter()

        async def counted() -> int:
            await counter.once()
            return await watch.raised()

        await watch.add(2)
        await watch.add(5, org="other")
        assert await counted() == 0
        assert (await got(asking, "search", "many")).above is False
        await watch.add(1)
        assert await counted() == 1
        await watch.add(4)
        assert [await counted(), await counted()] == [1, 1]
        shown = await got(asking, "search", "many")
        assert (shown.above, shown.since[:16]) == (True, watch.now.isoformat()[:16])
        watch.now += timedelta(seconds=61)
        assert await counted() == 1
        assert (await got(asking, "search", "many")).above is False
        await watch.add(3)
        assert await counted() == 2
        # A search that was changed begins anew, and one that is switched off or gone says nothing.
        await told(asking, putting("search", "many", q="type:run.*", alert_above=2))
        assert await counted() == 3
        await told(asking, putting("search", "many", q="type:run.*", alert_above=2, enabled=False))
        assert await counted() == 3
        assert (await got(asking, "search", "many")).above is None
        await asking.ask(removing("search", "many"))
        assert await counted() == 3


async def test_counters_that_count_at_the_same_time_say_it_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with watching(place, monkeypatch) as watch:
        await watch.add(3)
        await asyncio.gather(*(watch.counter().once() for _ in range(5)))
        assert await watch.raised() == 1


async def test_a_counter_that_dies_between_any_two_steps_leaves_nothing_unsaid_and_says_nothing_twice(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watching(place, monkeypatch) as watch:
        await watch.add(3)

        async def dies(*_: Any) -> None:
            raise Unavailable("killed here")

        with monkeypatch.context() as dying:
            # Published, and not yet recorded as such.
            dying.setattr(alert_rows, "announced", dies)
            with pytest.raises(Unavailable):
                await watch.counter().once()
        assert await watch.raised() == 1
        with monkeypatch.context() as dying:
            dying.setattr(alert_rows, "announced", dies)
            with pytest.raises(Unavailable):
                await watch.counter().once()
        await watch.counter().once()
        assert await watch.raised() == 1
        watch.now += timedelta(seconds=61)
        await watch.counter().once()
        await watch.add(3)
        with monkeypatch.context() as dying:
            # Recorded, and not yet published; by the time that another one comes it is over.
            dying.setattr(Bus, "publish", dies)
            with pytest.raises(Unavailable):
                await watch.counter().once()
        assert await watch.raised() == 1
        watch.now += timedelta(seconds=61)
        await watch.counter().once()
        assert await watch.raised() == 2


async def test_a_search_that_cannot_be_counted_keeps_no_other_from_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with watching(place, monkeypatch) as watch, bus_of(place, "gateway") as asking:
        await told(asking, putting("search", "broken", q="fine", alert_above=0))
        connection = await asyncpg.connect(place.database_url("logs"))
        # As a query of another version's language.
        await connection.execute(
            """UPDATE resource SET spec = '{"q": "a (", "alert_above": 0, "enabled": true}' WHERE name = 'broken'"""
        )
        await connection.close()
        await watch.add(3)
        counter = watch.counter()
        await counter.once()
        await counter.once()
        assert await watch.raised() == 1


async def test_an_organization_without_time_for_all_its_searches_goes_on_with_the_next_and_takes_none_of_anothers(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each round has time for one search of each organization.
    monkeypatch.setattr(alerts, "EACH", 0.0)
    monkeypatch.setattr(alerts, "AT_ONCE", 1)
    async with watching(place, monkeypatch) as watch, bus_of(place, "gateway") as asking:
        for name in ("one", "two", "three"):
            await told(asking, putting("search", name, org="acme", q="type:run.requested", alert_above=2))
        await watch.add(3)
        await watch.add(3, org="acme")
        counter = watch.counter()
        for raised in (2, 3, 4, 4):
            await counter.once()
            assert await watch.raised() == raised


async def test_a_search_that_finds_its_own_alert_says_it_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with watching(place, monkeypatch) as watch, bus_of(place, "gateway") as asking:
        await told(asking, putting("search", "many", q="type:run.requested OR type:alert.*", alert_above=0, alert_window=60))
        await told(asking, putting("search", "other", q="type:alert.*", alert_above=0, alert_window=60))
        await watch.add(1)
        counter = watch.counter()
        await counter.once()
        assert await watch.raised() == 1

        async def both() -> bool:
            # Once the first alert is archived it is what the second one finds.
            watch.now = utc_now()
            await counter.once()
            return await watch.raised() == 2

        await eventually(both)
        for ahead in range(0, 120, 20):
            watch.now = utc_now() + timedelta(seconds=ahead)
            await counter.once()
        assert await watch.raised() == 2


async def test_an_alert_is_an_event_of_the_topic_and_a_saved_search_is_searched_by_its_name(place: Place) -> None:
    async with (
        running(place, "events"),
        running(place, "logs"),
        gateway(place) as client,
        bus_of(place, "gateway") as bus,
        bus_of(place, "executor") as executor,
    ):
        # Its topic is made by the first subscription, which need not take any event.
        off = putting("subscription", "watch", source="millrace", event="millrace.search", workflow="nobody", enabled=False)
        await told(bus, off)
        answer = await client("PUT", "/api/v1/searches/runs", json={"q": "type:run.requested workflow:mine", "alert_above": 1})
        assert answer.status == 200, answer.body
        wrong = await client("PUT", "/api/v1/searches/wrong", json={"q": "type:("})
        assert (wrong.status, wrong.json["errors"][0]["path"]) == (422, "q")
        for number in range(3):
            asked = RunRequested(run=f"r{number}", workflow="mine", version="v", requested_by="t", timeout=60.0)
            await executor.publish(executor.seal(asked, org="default"))

        async def delivered() -> DeliveryList | None:
            page: DeliveryList = await bus.ask(ListDeliveries(org="default", source="millrace", page=Page()))
            return page if page.items else None

        page = await eventually(delivered)
        assert isinstance(page, DeliveryList)
        assert [one.type for one in page.items] == ["millrace.search"]

        async def all_archived() -> bool:
            # Two of them were enough for the alert.
            return len((await client("GET", "/api/v1/logs?saved=runs")).json["items"]) == 3

        await eventually(all_archived)
        await found_by_name(client)


async def found_by_name(client: Client) -> None:
    for path, number in (("logs", 3), ("logs/export", 3)):
        answer = await client("GET", f"/api/v1/{path}?saved=runs&q=-run:r7")
        lines = answer.json["items"] if path == "logs" else answer.body.decode().splitlines()
        assert len(lines) == number
    assert (await client("GET", "/api/v1/logs/histogram?saved=runs&q=run:r1")).json["count"] == 1
    assert (await client("GET", "/api/v1/logs/facets?saved=runs&fields=workflow")).json["counted"] == 3
    for path in ("logs", "logs/histogram", "logs/facets", "logs/export", "logs/tail"):
        assert (await client("GET", f"/api/v1/{path}?saved=other")).status == 404, path
        # Another organization's is none.
        assert (await client("GET", f"/api/v1/{path}?saved=runs&org=acme")).status == 404, path
