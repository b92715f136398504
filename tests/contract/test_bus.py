"""What every service may rely on: appends, conflicts, ordered reading, registries, blobs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest

from shared import aggregate
from shared.blobs import Blobs
from shared.commit import Stale
from shared.envelope import new_id
from shared.errors import Conflict, NotFound, TooLarge
from shared.health import Health
from shared.messages import RunCancelRequested, RunRequested, RunStarted, RunStepCompleted
from shared.ordered_reader import OrderedReader
from shared.registry import RegistryView, RegistryWriter
from shared.resources.source import Source, SourceEntry
from tests.support.inside import bus_of
from tests.support.servers import Place


def requested(run: str) -> RunRequested:
    return RunRequested(run=run, workflow="w", version="v", input={}, requested_by="test", timeout=60.0)


async def test_an_append_expects_the_aggregates_last_sequence(place: Place) -> None:
    run = new_id()
    async with bus_of(place, "executor") as bus:
        first = await bus.publish(bus.seal(requested(run), org="default"))
        started = bus.seal(RunStarted(run=run, attempt=1, executor="e", tier="none"), org="default")
        second = await bus.append(started, first)
        assert second > first
        with pytest.raises(Conflict):
            await bus.append(bus.seal(RunStarted(run=run, attempt=1, executor="f", tier="none"), org="default"), first)


async def test_a_conflict_is_success_when_the_message_is_there_already(place: Place) -> None:
    run = new_id()
    async with bus_of(place, "executor") as bus:
        creation = bus.seal(requested(run), org="default")
        first = await bus.publish(creation)
        assert await bus.publish(creation) == first


async def test_an_unconditional_writer_and_a_claim_never_both_win(place: Place) -> None:
    async with bus_of(place, "executor") as one, bus_of(place, "gateway") as two:
        for _ in range(50):
            run = new_id()
            first = await one.publish(one.seal(requested(run), org="default"))
            outcomes = await asyncio.gather(
                one.journal.append(one.seal(RunStarted(run=run, attempt=1, executor="e", tier="none"), org="default"), first),
                two.journal.append(two.seal(RunCancelRequested(run=run, requested_by="x"), org="default"), first),
                return_exceptions=True,
            )
            assert sorted(isinstance(outcome, Stale) for outcome in outcomes) == [False, True]


async def test_history_tells_an_aggregates_messages_in_order(place: Place) -> None:
    run = new_id()
    async with bus_of(place, "executor") as bus:
        first = await bus.publish(bus.seal(requested(run), org="default"))
        await bus.publish(bus.seal(requested(new_id()), org="default"))
        second = await bus.append(bus.seal(RunCancelRequested(run=run, requested_by="x"), org="default"), first)
        told = [stored async for stored in aggregate.history(bus.client, "run", run)]
        assert [stored.sequence for stored in told] == [first, second]
        assert [stored.envelope.type for stored in told] == ["run.requested", "run.cancel_requested"]


async def test_a_reader_whose_consumer_is_gone_without_a_word_makes_a_new_one(place: Place) -> None:
    async with bus_of(place, "executor") as bus, bus_of(place, "admin") as admin:
        first = await bus.publish(bus.seal(requested(new_id()), org="default"))
        batches = OrderedReader(bus.client, "RUNS", after=first - 1, batch=1).batches()
        assert [one.sequence for one in await anext(batches)] == [first]
        second = await bus.publish(bus.seal(requested(new_id()), org="default"))
        # It has used the pull up: none is under way that could be told, as after a restart of the broker.
        for consumer in await admin.client.jetstream().consumers_info("RUNS"):
            if consumer.config.durable_name is None:
                await admin.client.jetstream().delete_consumer("RUNS", consumer.name)
        third = await bus.publish(bus.seal(requested(new_id()), org="default"))
        async with asyncio.timeout(60):
            assert [one.sequence for one in await anext(batches)] == [second]
            assert [one.sequence for one in await anext(batches)] == [third]
        await batches.aclose()


async def test_a_long_history_is_told_as_completely_as_a_short_one(place: Place) -> None:
    async with bus_of(place, "executor") as bus:
        run = new_id()
        expected = [await bus.append(bus.seal(requested(run), org="default"), 0)]
        for ordinal in range(3 * aggregate.ONE_BY_ONE):
            step = RunStepCompleted(run=run, attempt=1, name="one", ordinal=ordinal, result=ordinal)
            expected.append(await bus.append(bus.seal(step, org="default"), expected[-1]))
            await bus.append(bus.seal(requested(new_id()), org="default"), 0)
        for count in (1, aggregate.ONE_BY_ONE, aggregate.ONE_BY_ONE + 1, len(expected)):
            after = expected[-count] - 1
            assert [one.sequence async for one in aggregate.history(bus.client, "run", run, after=after)] == expected[-count:]
        assert [one async for one in aggregate.history(bus.client, "run", new_id())] == []


async def test_an_ordered_reader_starts_after_a_sequence_and_follows(place: Place) -> None:
    async with bus_of(place, "executor") as bus:
        sequences = [await bus.publish(bus.seal(requested(new_id()), org="default")) for _ in range(20)]
        reader = OrderedReader(bus.client, "RUNS", after=sequences[4], batch=4).batches()
        seen: list[int] = []
        async for batch in reader:
            seen += [delivered.sequence for delivered in batch]
            if len(seen) == 15:
                sequences.append(await bus.publish(bus.seal(requested(new_id()), org="default")))
            if len(seen) >= 16:
                break
        await reader.aclose()
        assert seen == sequences[5:]


async def test_a_reader_of_headers_gets_every_message_and_no_data(place: Place) -> None:
    async with bus_of(place, "executor") as bus:
        sequences = [await bus.publish(bus.seal(requested(new_id()), org="default")) for _ in range(20)]
        reader = OrderedReader(bus.client, "RUNS", batch=4, headers_only=True).batches()
        seen: list[int] = []
        async for batch in reader:
            seen += [delivered.sequence for delivered in batch]
            assert {delivered.data for delivered in batch} == {b""}
            if len(seen) == len(sequences):
                break
        await reader.aclose()
        assert seen == sequences


async def test_a_registry_keeps_the_entry_with_the_higher_sequence(place: Place) -> None:
    def entry(name: str) -> SourceEntry:
        return SourceEntry(
            id="s1", org="default", key="k", name=name, spec=Source(adapter="github"), created_at="", updated_at="", version=1,
        )  # fmt: skip

    health = Health("gateway")
    async with bus_of(place, "events") as owner, bus_of(place, "gateway") as reader:
        writer = RegistryWriter(owner.client, "sources", SourceEntry)
        view = RegistryView(reader.client, "sources", SourceEntry, health)
        task = asyncio.create_task(view.run())
        await asyncio.wait_for(view.complete(), 60)
        assert view.get("s1") is None
        assert await writer.put("s1", 7, entry("new"))
        assert not await writer.put("s1", 6, entry("old"))
        async with asyncio.timeout(60):
            while (found := view.get("s1")) is None:
                await asyncio.sleep(0.005)
        assert found.value is not None
        assert found.value.name == "new"
        assert found.seq == 7
        task.cancel()


async def test_blobs_stream_both_ways_and_are_stored_once(place: Place) -> None:
    content = bytes(range(256)) * 2000

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 100_000):
            yield content[start : start + 100_000]

    async with bus_of(place, "gateway") as bus:
        blobs = Blobs(bus.client, "bodies")
        blob = await blobs.put(parts())
        assert blob.sha256 == hashlib.sha256(content).hexdigest()
        assert blob.size == len(content)
        assert await blobs.put(parts()) == blob
        assert await blobs.read(blob.sha256) == content
        with pytest.raises(TooLarge):
            await blobs.put(parts(), limit=1000)
        with pytest.raises(NotFound):
            await blobs.read("0" * 64)


async def test_an_empty_blob_is_a_blob(place: Place) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        return
        yield b""

    async with bus_of(place, "gateway") as bus:
        blobs = Blobs(bus.client, "bodies")
        blob = await blobs.put(nothing())
        assert await blobs.read(blob.sha256) == b""
