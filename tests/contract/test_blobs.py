"""Blobs on a real broker: parts of a content, content that is not whole, and many who store, renew and collect the same."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator

import pytest

from shared.blobs import CHUNK, STEP, Blobs
from shared.errors import NotFound, Unavailable
from shared.pull import api_request
from tests.support.inside import bus_of
from tests.support.servers import Place

CONTENT = os.urandom(3 * STEP * CHUNK + 1000)


async def parts(content: bytes = CONTENT) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 300_000):
        yield content[start : start + 300_000]


async def some(blobs: Blobs, sha256: str, start: int, length: int | None) -> bytes:
    return b"".join([chunk async for chunk in blobs.get(sha256, start=start, length=length)])


async def test_any_part_of_a_content_is_read_and_of_one_that_was_moved_in_its_stream_as_well(place: Place) -> None:
    edges = [0, 1, CHUNK - 1, CHUNK, STEP * CHUNK - 1, STEP * CHUNK, 2 * STEP * CHUNK + 5, len(CONTENT) - 1, len(CONTENT)]
    async with bus_of(place, "executor") as bus:
        blobs = Blobs(bus.client, "workspace")
        blob, again, _ = await asyncio.gather(blobs.put(parts()), blobs.put(parts()), blobs.put(parts(CONTENT[5:])))
        assert blob == again
        for start in edges:
            for length in (1, CHUNK, 2 * CHUNK + 1, None):
                assert await some(blobs, blob.sha256, start, length) == CONTENT[start:][:length]
        # As after a stream was put together again: the places that the record names hold something else.
        record = await blobs.record(blob.sha256)
        assert record.meta is not None
        places = record.meta["metadata"]["places"].split(",")
        moved = record.meta | {"metadata": {"step": str(STEP), "places": ",".join(str(int(one) + 3) for one in places)}}
        assert await blobs._write(moved, expected=record.sequence)
        assert await some(blobs, blob.sha256, 2 * STEP * CHUNK + 7, 100) == CONTENT[2 * STEP * CHUNK + 7 :][:100]


async def test_equal_content_is_stored_once_and_what_lacks_a_chunk_is_refused(place: Place) -> None:
    async with bus_of(place, "executor") as bus, bus_of(place, "admin") as admin:
        blobs = Blobs(bus.client, "workspace")
        blob = (await asyncio.gather(*(blobs.put(parts()) for _ in range(4))))[0]
        state = (await api_request(admin.client, f"$JS.API.STREAM.INFO.{blobs.stream}", None))["state"]
        assert state["messages"] == 1 + len(CONTENT) // CHUNK + 1
        record = await blobs.record(blob.sha256)
        assert record.meta is not None
        second = int(record.meta["metadata"]["places"].split(",")[1])
        answer = await api_request(admin.client, f"$JS.API.STREAM.MSG.DELETE.{blobs.stream}", {"seq": second})
        assert answer["success"]
        with pytest.raises(Unavailable, match="lacks"):
            await blobs.read(blob.sha256)


async def test_whoever_is_about_to_refer_to_a_content_keeps_it_from_being_collected(place: Place) -> None:
    content = b"a" * 1000
    sha256 = hashlib.sha256(content).hexdigest()
    async with bus_of(place, "executor") as bus:
        blobs = Blobs(bus.client, "workspace", renewed_after=0.01)
        claimed = refused = 0

        async def refer() -> None:
            """Do as a commit does: the content was stored a while ago, and has to be there from the claim on."""
            nonlocal claimed, refused
            await blobs.put(parts(content))
            await asyncio.sleep(random.random() / 50)
            seen = await blobs.record(sha256)
            if await blobs.claim(sha256) is None:
                refused += 1
            else:
                # A collector that looked before the claim comes too late: another one may have looked since.
                claimed += 1
                assert not await blobs.remove(sha256, expected=seen.sequence) or (await blobs.record(sha256)).meta is None

        async def collect() -> None:
            seen = await blobs.record(sha256)
            if seen.meta is not None:
                await asyncio.sleep(random.random() / 50)
                await blobs.remove(sha256, expected=seen.sequence)

        await asyncio.gather(*(refer() for _ in range(30)), *(collect() for _ in range(30)))
        assert (claimed > 0, claimed + refused) == (True, 30)
        await blobs.put(parts(content))
        seen = await blobs.record(sha256)
        await asyncio.sleep(0.02)
        assert await blobs.claim(sha256)
        assert not await blobs.remove(sha256, expected=seen.sequence)
        assert await blobs.read(sha256) == content
        assert await blobs.remove(sha256)
        with pytest.raises(NotFound):
            await blobs.read(sha256)
