"""The moment of a backup: streams are cut where they belong together, while messages come and go."""

from __future__ import annotations

import secrets
from typing import Any

import asyncpg
import pytest

from deploy.backup import moment, streams
from deploy.positions import CUT, administrator, held, mark_cut
from shared.bus import Bus
from shared.envelope import new_id
from shared.messages import WebhookReceived
from shared.messages.log import Logged
from shared.ordered_reader import OrderedReader
from shared.projection import incarnation_of
from shared.pull import api_request
from shared.streams import WORK, Work
from tests.support.inside import bus_of
from tests.support.servers import Place

PARSE = next(work for work in WORK if work.name == "events-parse")
CHUNKS = 3
RUNS = next(work for work in WORK if work.managed)


async def log(bus: Bus, count: int) -> None:
    for _ in range(count):
        await bus.publish(bus.seal(Logged(service="executor", level="info", event=new_id(), fields={}), org="global"))


async def receive(bus: Bus) -> None:
    given: dict[str, Any] = {
        "adapter": "generic",
        "received_at": "2026-01-02T03:04:05Z",
        "method": "POST",
        "query": [],
        "headers": [],
    }
    await bus.publish(bus.seal(WebhookReceived(source="s", delivery=new_id(), **given), org="acme"))


async def content(bus: Bus, stream: str) -> list[tuple[int, bytes, Any]]:
    found: list[tuple[int, bytes, Any]] = []
    state = (await api_request(bus.client, f"$JS.API.STREAM.INFO.{stream}", None))["state"]
    batches = OrderedReader(bus.client, stream).batches()
    while len(found) < state["messages"]:
        found += [(one.sequence, one.data, one.time) for one in await anext(batches)]
    await batches.aclose()
    return found


async def test_what_comes_after_the_moment_is_cut_away_and_all_else_comes_back_as_it_was(place: Place) -> None:
    connection = await asyncpg.connect(place.database_url("admin"))
    async with bus_of(place, "executor") as bus, bus_of(place, "logs") as reader, administrator(place.nats_url("admin")) as admin:
        await log(bus, 5)
        # More than one chunk, also compressed.
        text = secrets.token_hex(CHUNKS * streams.CHUNK)
        for start in range(0, len(text), streams.CHUNK):
            fields = {"text": text[start : start + streams.CHUNK]}
            await bus.publish(bus.seal(Logged(service="executor", level="info", event="x", fields=fields), org="global"))

        async def registries() -> None:
            await log(bus, 2)

        _, taken = await moment.choose(admin, connection, registries, working=True)
        assert taken.cuts["LOGS"] == 7 + 2 * CHUNKS
        before = await content(reader, "LOGS")
        incarnation = await incarnation_of(admin, "LOGS")
        await log(bus, 3)
        parts: list[bytes] = []
        given = await streams.save(admin, "LOGS", parts.append)
        assert len(parts) > CHUNKS
        await api_request(admin, "$JS.API.STREAM.DELETE.LOGS", None)
        config = dict(given["config"])
        mark_cut(config, taken.cuts["LOGS"], given["state"]["last_seq"])
        await streams.load(admin, config, given["state"], parts)
        await streams.cut(admin, "LOGS", taken.cuts["LOGS"], given["state"]["last_seq"])
        assert await content(reader, "LOGS") == before
        assert await incarnation_of(admin, "LOGS") == incarnation
        # A sequence is never given twice.
        await log(bus, 1)
        assert (await content(reader, "LOGS"))[-1][0] == 11 + 2 * CHUNKS
        # No row was ever made of what was cut away: a rebuild misses nothing. What goes later is missed.
        there = await held(admin, "LOGS")
        assert (there.gone, there.gone_within) == (0, 0)
        mark_cut(config, 11 + 2 * CHUNKS, 20 + 2 * CHUNKS)
        assert config["metadata"][CUT] == f"{8 + 2 * CHUNKS}-{10 + 2 * CHUNKS} {12 + 2 * CHUNKS}-{20 + 2 * CHUNKS}"
        await api_request(admin, "$JS.API.STREAM.PURGE.LOGS", {"seq": 3})
        there = await held(admin, "LOGS")
        assert (there.gone, there.gone_within) == (2, 0)
    await connection.close()


async def test_rows_are_older_than_the_cut_and_consumers_of_events_alone_stand_still_for_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moment, "DRAINED_WITHIN", 0.2)
    connection = await asyncpg.connect(place.database_url("admin"))
    other = await asyncpg.connect(place.database_url("admin"))
    async with bus_of(place, "gateway") as bus, administrator(place.nats_url("admin")) as admin:

        async def paused(work: Work) -> bool:
            info = await api_request(admin, f"$JS.API.CONSUMER.INFO.{work.stream}.{work.name}", None)
            return bool(info.get("paused"))

        for _ in range(3):
            await receive(bus)
        subscription = await admin.jetstream().pull_subscribe_bind("events-parse", "WEBHOOKS")
        first, second = await subscription.fetch(2)
        await first.ack_sync(60)
        seen: list[bool] = []

        async def registries() -> None:
            seen.extend([await paused(PARSE), await paused(RUNS)])
            await other.execute("CREATE TABLE events.later ()")

        _, taken = await moment.choose(admin, connection, registries, working=True)
        assert seen == [True, False]
        assert not await paused(PARSE)
        # The second was handed out and not done with: it is delivered again, and all behind it.
        assert (taken.floors["events-parse"], taken.cuts["WEBHOOKS"]) == (1, 3)
        there = "SELECT count(*) FROM pg_class WHERE relname = 'later'"
        assert (await connection.fetchval(there), await other.fetchval(there)) == (0, 1)
        await second.ack_sync(60)
        assert [len(await subscription.fetch(1))] == [1]
    await other.close()
    await connection.close()
