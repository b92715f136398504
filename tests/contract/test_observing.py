"""What a service sees of its stores: the lag of its projections and of its consumers, its database, its pool, its broker."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shared import db
from shared.connection import traffic
from shared.durables import backlog_of, lag
from shared.envelope import new_id
from shared.errors import Unavailable
from shared.health import Health
from shared.messages import WebhookReceived
from shared.metrics import exposition
from shared.observing import Observer
from shared.pull import StreamError, api_request
from shared.streams import WORK
from tests.support.inside import bus_of
from tests.support.servers import Place


@dataclass
class Writer:
    name: str
    position: int
    stream: str = "WEBHOOKS"


def received() -> WebhookReceived:
    return WebhookReceived(
        source="s", delivery=new_id(), adapter="hmac", received_at="", method="POST", query=[], headers=[], body_base64=""
    )  # fmt: skip


async def accept(place: Place, count: int) -> list[int]:
    async with bus_of(place, "gateway") as gateway:
        return [await gateway.publish(gateway.seal(received(), org="default")) for _ in range(count)]


def sample(health: Health, name: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(exposition(health).decode()):
        for one in family.samples:
            if one.name == name and labels.items() <= one.labels.items():
                return one.value
    return None


async def test_a_projection_that_stands_still_is_behind_and_one_whose_messages_are_others_is_not(place: Place) -> None:
    first, *_, last = await accept(place, 3)
    health = Health("events")
    engine = db.open_engine(place.database_url("events"), service="events", registry=health.registry)
    writers = {
        "still": Writer("still", first),
        "done": Writer("done", last),
        "others": Writer("others", 0),
        "elsewhere": Writer("elsewhere", -1),
        "owned": Writer("owned", 0, "TIMERS"),
    }
    filters = {**dict.fromkeys(writers, ()), "others": ("webhook.*.refused", "webhook.*.never")}
    async with bus_of(place, "events") as bus:
        observer = Observer(bus.client, engine, writers, filters, health)
        await observer.look()
        fact = health.document()["projection_lag"]
        assert fact["messages"] == {"still": 2, "done": 0, "others": 0}
        assert (fact["age_s"]["done"], fact["age_s"]["others"]) == (0, 0)
        assert fact["age_s"]["still"] > 0
        assert sample(health, "millrace_projection_lag_messages", projection="still") == 2
        writers["still"].position = last
        await observer.look()
        assert health.document()["projection_lag"]["messages"]["still"] == 0
        # Another replica goes on: this one has nothing to say.
        writers["still"].position = -1
        await observer.look()
        assert "still" not in health.document()["projection_lag"]["messages"]
        # A stream that was made anew begins below what was clear.
        writers["others"].position = 0
        observer._clear["others"] = last + 100
        await observer.look()
        assert health.document()["projection_lag"]["messages"]["others"] == 0
    await engine.dispose()


async def test_a_database_that_is_away_is_down_and_the_last_size_stays(place: Place) -> None:
    health = Health("events")
    engine = db.open_engine(place.database_url("events"), service="events", registry=health.registry)
    async with bus_of(place, "events") as bus:
        observer = Observer(bus.client, engine, {}, {}, health)
        assert sample(health, "millrace_database_up") == 0
        await observer.look()
        assert sample(health, "millrace_database_up") == 1
        size = sample(health, "millrace_database_size_bytes")
        assert size is not None
        assert size > 1_000_000
        async with place.database_away():
            await observer.look()
            assert sample(health, "millrace_database_up") == 0
            assert sample(health, "millrace_database_size_bytes") == size
        await observer.look()
        assert sample(health, "millrace_database_up") == 1
    await engine.dispose()


async def test_a_pool_without_a_free_connection_does_not_make_the_database_down(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "POOL_WAIT", 0.1)
    health = Health("events")
    engine = db.open_engine(place.database_url("events"), service="events", pool_size=1)
    async with bus_of(place, "events") as bus:
        observer = Observer(bus.client, engine, {}, {}, health)
        await observer.look()
        async with db.transaction(engine):
            await observer.look()
            assert sample(health, "millrace_database_up") == 1
    await engine.dispose()


async def test_a_pool_tells_who_has_and_who_waits_and_who_waited_in_vain(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "POOL_WAIT", 0.2)
    health = Health("events")
    engine = db.open_engine(place.database_url("events"), service="events", pool_size=1, registry=health.registry)

    def figure(name: str, **labels: str) -> float | None:
        return sample(health, f"db_client_connection_{name}", db_client_connection_pool_name="events", **labels)

    async def wait() -> None:
        async with db.transaction(engine):
            pass

    assert (figure("max"), figure("count", db_client_connection_state="used"), figure("pending_requests")) == (1, 0, 0)
    async with db.transaction(engine):
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        assert (figure("count", db_client_connection_state="used"), figure("pending_requests")) == (1, 1)
        with pytest.raises(Unavailable):
            await waiting
        assert (figure("timeouts_total"), figure("pending_requests")) == (1, 0)
    assert figure("count", db_client_connection_state="idle") == 1
    await engine.dispose()


async def test_a_statement_that_takes_too_long_is_counted(place: Place) -> None:
    engine = db.open_engine(place.database_url("events"), service="events")
    before = db.TROUBLE["statement_timeouts"]
    with pytest.raises(Exception, match="statement timeout"):
        async with db.reading(engine) as connection:
            await connection.execute("SET statement_timeout = 20; SELECT pg_sleep(10)")
    assert db.TROUBLE["statement_timeouts"] == before + 1
    await engine.dispose()


async def test_what_waits_for_a_consumer_has_a_number_and_an_age(place: Place) -> None:
    work = next(one for one in WORK if one.name == "events-parse")
    async with bus_of(place, "events") as bus:
        assert lag({work.name: await backlog_of(bus.client, work)})["age_s"] == {work.name: 0.0}
        await accept(place, 2)
        found = lag({work.name: await backlog_of(bus.client, work)})
    assert (found["waiting"], found["in_work"]) == ({work.name: 2}, {work.name: 0})
    assert found["age_s"][work.name] > 0


async def test_only_what_jetstream_refuses_counts_as_its_error(place: Place) -> None:
    async with bus_of(place, "events") as bus:
        with pytest.raises(StreamError):
            await api_request(bus.client, "$JS.API.STREAM.MSG.GET.WEBHOOKS", {"seq": 1, "next_by_subj": ">"})
        assert traffic(bus.client) == {"connected": True, "reconnects": 0, "errors": 0}
        with pytest.raises(StreamError):
            await api_request(bus.client, "$JS.API.STREAM.MSG.GET.WEBHOOKS", {"seq": 0, "nonsense": True})
        assert traffic(bus.client)["errors"] == 1
