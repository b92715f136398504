"""A run's files as the supervisor serves them: what is left in the middle makes room, and none of it takes much memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from services.executor.sandbox.interface import MAX_CHUNK
from services.executor.workspaces import files, registration
from services.executor.workspaces.files import Files
from shared.blobs import Blobs
from shared.errors import Invalid, Unavailable
from tests.support.inside import bus_of
from tests.support.servers import Place

SIZE = 48 << 20


class Rows:
    """One row, of a file of the organization `acme`."""

    def __init__(self, sha256: str) -> None:
        self._row = {"path": "data/in", "sha256": sha256, "size": SIZE, "updated_at": datetime.now(UTC)}

    async def file(self, org: str, path: str) -> Any:
        return self._row if (org, path) == ("acme", "data/in") else None


class Deps:
    """A real object store, and the row that a projection would have made."""

    def __init__(self, blobs: Blobs, sha256: str) -> None:
        self.blobs = blobs
        self.store = Rows(sha256)


async def zeros() -> AsyncIterator[bytes]:
    for _ in range(SIZE >> 20):
        yield bytes(1 << 20)


async def test_a_file_is_read_in_bounded_memory_and_what_is_left_makes_room(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bus_of(place, "executor") as bus:
        blobs = Blobs(bus.client, "workspace")
        blob = await blobs.put(zeros())
        served = Files(cast("registration.Deps", Deps(blobs, blob.sha256)), "acme", "r1", "c1")
        tracemalloc.start()
        try:
            at = 0
            while at < SIZE:
                answer = await served.read("data/in", 1, at)
                assert len(answer["data"]) == MAX_CHUNK
                at += len(answer["data"])
            assert tracemalloc.get_traced_memory()[1] < 24 << 20
        finally:
            tracemalloc.stop()
        with pytest.raises(Invalid, match="begin at 0"):
            await served.read("data/in", 1, at)
        for number in range(files.AT_ONCE):
            await served.read("data/in", number, 0)
        with pytest.raises(Unavailable, match="at most 6 files at a time"):
            await served.read("data/in", 99, 0)
        monkeypatch.setattr(files, "IDLE", 0.0)
        assert len((await served.read("data/in", 99, 0))["data"]) == MAX_CHUNK
        with pytest.raises(Invalid, match="begin at 0"):
            await served.read("data/in", 0, MAX_CHUNK)
        await served.close()


async def test_a_file_is_written_from_a_place_without_a_name(place: Place) -> None:
    async with bus_of(place, "executor") as bus:
        served = Files(cast("registration.Deps", Deps(Blobs(bus.client, "workspace"), "")), "acme", "r1", "c1")
        tracemalloc.start()
        try:
            for number in range(32):
                await served.write("data/out", 1, number << 20, bytes(1 << 20), is_last=False)
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()
        await served.close()
