"""Registries on a real broker: an entry that cannot be decoded stands in the way of nothing but itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from shared import tasks
from shared.errors import TooLarge
from shared.health import Health
from shared.pull import api_request
from shared.registry import Entry, RegistryView, RegistryWriter
from shared.resources.source import Source, SourceEntry
from tests.support.inside import bus_of, eventually
from tests.support.servers import Place

UNDECODABLE = [b"no json", b"\xff", b"{}", b'{"seq":5,"value":7}', b'{"seq":"x","value":null}', b"[" * 100_000]


def entry(name: str) -> SourceEntry:
    return SourceEntry(
        id=name, org="acme", key=name, name=name, spec=Source(adapter="hmac"), created_at="", updated_at="", version=1
    )  # fmt: skip


async def write(place: Place, key: str, document: bytes) -> None:
    """Write to a registry as an operator, or a version that is not ours, might."""
    async with bus_of(place, "admin") as bus:
        await bus.client.jetstream().publish(f"$KV.sources.{key}", document)


@asynccontextmanager
async def viewing(place: Place) -> AsyncIterator[tuple[RegistryView[SourceEntry], Health]]:
    health = Health("gateway")
    health.started = True
    async with bus_of(place, "gateway") as bus:
        view = RegistryView(bus.client, "sources", SourceEntry, health)
        task = asyncio.create_task(view.run())
        try:
            async with asyncio.timeout(60):
                await view.complete()
            yield view, health
        finally:
            await tasks.end([task])


async def test_a_view_passes_over_what_it_cannot_decode_and_says_so(place: Place) -> None:
    async with bus_of(place, "events") as bus:
        writer = RegistryWriter(bus.client, "sources", SourceEntry)
        await writer.put("first", 1, entry("first"))
        for number, document in enumerate(UNDECODABLE):
            await write(place, f"broken{number}", document)
        async with viewing(place) as (view, health):
            assert view.get("first") == Entry(1, entry("first"))
            told = health.document()["registry_sources"]
            assert told["undecodable"] == len(UNDECODABLE)
            assert set(told["keys"]) == {f"broken{number}" for number in range(len(UNDECODABLE))}
            assert health.ready, health.document()
            await writer.put("later", 2, entry("later"))

            async def seen() -> bool:
                return view.get("later") is not None

            await eventually(seen)
            # What was known of a thing stays when something else takes its entry's place.
            await write(place, "first", b"no json")

            async def told_of() -> bool:
                return "first" in health.document()["registry_sources"]["keys"]

            await eventually(told_of)
            assert view.get("first") == Entry(1, entry("first"))


async def test_a_view_of_nothing_but_what_it_cannot_decode_is_complete(place: Place) -> None:
    await write(place, "broken", b"no json")
    async with viewing(place) as (view, _):
        assert list(view.values()) == []


async def test_its_owner_replaces_what_cannot_be_decoded(place: Place) -> None:
    broken = {f"broken-{number}": document for number, document in enumerate(UNDECODABLE)}
    for key, document in broken.items():
        await write(place, key, document)
    async with viewing(place) as (view, health), bus_of(place, "events") as bus:
        writer = RegistryWriter(bus.client, "sources", SourceEntry)
        for key in broken:
            assert await writer.put(key, 5, entry("mended"))

        async def mended() -> bool:
            are_mended = all(view.get(key) == Entry(5, entry("mended")) for key in broken)
            return are_mended and not health.document()["registry_sources"]["undecodable"]

        await eventually(mended)
        for key in broken:
            assert not await writer.put(key, 5, entry("again"))


async def test_its_owner_makes_an_entry_anew_at_the_same_sequence_and_its_readers_follow(place: Place) -> None:
    async with viewing(place) as (view, _), bus_of(place, "events") as bus:
        writer = RegistryWriter(bus.client, "sources", SourceEntry)
        assert await writer.put("one", 5, entry("as it was"))
        assert await writer.remake("one", 5, entry("as it is"))
        assert not await writer.remake("one", 5, entry("as it is"))
        assert not await writer.remake("one", 4, entry("older"))

        async def seen() -> bool:
            return view.get("one") == Entry(5, entry("as it is"))

        await eventually(seen)


async def test_what_was_written_to_a_registry_that_was_made_anew_is_seen(place: Place) -> None:
    async with viewing(place) as (view, _), bus_of(place, "events") as bus, bus_of(place, "admin") as admin:
        writer = RegistryWriter(bus.client, "sources", SourceEntry)
        for number in range(1, 4):
            assert await writer.put("one", number, entry("one"))

        async def known() -> bool:
            return view.get("one") == Entry(3, entry("one"))

        await eventually(known)
        config = (await api_request(admin.client, "$JS.API.STREAM.INFO.KV_sources", None))["config"]
        await api_request(admin.client, "$JS.API.STREAM.DELETE.KV_sources", None)
        await api_request(admin.client, "$JS.API.STREAM.CREATE.KV_sources", config)
        # Its reader has come further than anything in it.
        assert await writer.put("one", 4, None)

        async def removed() -> bool:
            return view.get("one") == Entry(4, None)

        await eventually(removed)


async def test_what_is_newer_is_left_even_where_it_cannot_be_decoded(place: Place) -> None:
    """A version that is not ours yet has written it."""
    await write(place, "newer", b'{"seq":9,"value":{"of":"tomorrow"}}')
    async with bus_of(place, "events") as bus:
        assert not await RegistryWriter(bus.client, "sources", SourceEntry).put("newer", 8, entry("older"))


async def test_an_entry_that_the_broker_does_not_carry_is_refused_and_not_tried_for_ever(place: Place) -> None:
    async with bus_of(place, "events") as bus:
        with pytest.raises(TooLarge):
            await RegistryWriter(bus.client, "sources", SourceEntry).put("large", 1, entry("x" * 3_000_000))
