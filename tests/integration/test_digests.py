"""Digests grow with the archive, survive every kill, and contradict whoever changes them or the archive."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from deploy.prepare import prepare_broker
from services.logs.digests import keeping
from services.logs.digests.copies import CHECKPOINT, Diverged, opened
from services.logs.digests.entries import read_entry
from services.logs.digests.sealing import Sealer, seeds
from services.logs.digests.tree import WIDTH, Edge, Tile, leaf_hash, unbundled
from shared.db import open_engine
from shared.envelope import new_id
from shared.errors import Unavailable
from shared.messages import RunRequested
from tests.support.inside import bus_of, eventually, running
from tests.support.servers import Place
from tests.support.web import served


@pytest.fixture(autouse=True)
def sealed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sealed is here alone, however long the service runs."""
    monkeypatch.setattr(keeping, "FIRST", 600.0)


def requested(workflow: str) -> RunRequested:
    return RunRequested(run=new_id(), workflow=workflow, version="v", input={}, requested_by="test", timeout=60.0)


async def archive(place: Place, count: int) -> None:
    """Store messages of runs and wait until the archive has them."""
    async with running(place, "logs"), bus_of(place, "executor") as bus:
        connection = await asyncpg.connect(place.database_url("logs"))
        before = await connection.fetchval("SELECT count(*) FROM message WHERE stream = 'RUNS'")
        for number in range(count):
            await bus.publish(bus.seal(requested(f"w{number}"), org="acme"))

        async def enough() -> bool:
            return bool(await connection.fetchval("SELECT count(*) FROM message WHERE stream = 'RUNS'") == before + count)

        await eventually(enough)
        await connection.close()


@asynccontextmanager
async def sealing(place: Place, copy: Path | str, *, keys: tuple[bytes, ...] = (b"k" * 32,)) -> AsyncIterator[Sealer]:
    engine = open_engine(place.database_url("logs"), service="logs", pool_size=2)
    try:
        async with bus_of(place, "logs") as bus:
            yield Sealer(
                "RUNS",
                client=bus.client,
                engine=engine,
                seeds=seeds(keys),
                copies=[copy if isinstance(copy, str) else copy.as_uri()],
            )
    finally:
        await engine.dispose()


async def held(sealer: Sealer) -> tuple[int, list[Any]]:
    """Return the size that the checkpoint names, and the entries, after having held the one against the other."""
    note = await sealer.bucket.get(CHECKPOINT)
    assert note is not None
    checkpoint = opened(note, sealer.keys)
    encoded: list[bytes] = []
    for bundle in range(-(-checkpoint.size // WIDTH)):
        encoded += unbundled(await sealer.bucket.get(Tile(None, bundle).name) or b"")
    edge = Edge()
    edge.grow(map(leaf_hash, encoded[: checkpoint.size]))
    assert edge.root() == checkpoint.root
    return checkpoint.size, [read_entry(one) for one in encoded[: checkpoint.size]]


async def test_every_archived_message_becomes_an_entry_in_the_order_of_its_stream(place: Place, data: Path) -> None:
    await archive(place, 300)
    async with sealing(place, data) as sealer:
        assert await sealer.seal() == 300
        size, entries = await held(sealer)
        assert (size, [entry.seq for entry in entries]) == (300, list(range(1, 301)))
    await archive(place, 3)
    async with sealing(place, data) as sealer:
        assert await sealer.seal() == 3
        assert await sealer.seal() == 0
        size, grown = await held(sealer)
        assert (size, grown[:300]) == (303, entries)
        assert (data / "runs" / "checkpoint").read_bytes() == await sealer.bucket.get(CHECKPOINT)
        files = sorted(str(one.relative_to(data / "runs")) for one in (data / "runs").rglob("*") if one.is_file())
        assert files == [
            "checkpoint",
            "salts/0",
            "salts/1",
            "tile/0/000",
            "tile/0/001.p/47",
            "tile/1/000.p/1",
            "tile/entries/000",
            "tile/entries/001.p/47",
        ]


async def test_a_writer_that_was_killed_before_its_checkpoint_leaves_nothing_that_harms(
    place: Place, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await archive(place, 5)
    async with sealing(place, data) as first, sealing(place, data) as second:

        async def killed(name: str, old: bytes | None, new: bytes) -> bool:
            if name == CHECKPOINT:
                raise Unavailable("killed")
            return await replace(name, old, new)

        replace = first.bucket.replace
        monkeypatch.setattr(first.bucket, "replace", killed)
        with pytest.raises(Unavailable, match="killed"):
            await first.seal()
        assert await second.seal() == 5
        assert (await held(second))[0] == 5


async def test_a_writer_that_stood_still_writes_nothing_over_the_one_that_took_over(place: Place, data: Path) -> None:
    await archive(place, 3)
    async with sealing(place, data) as still, sealing(place, data) as other:
        await still.seal()
        await archive(place, 3)
        await other.seal()
        kept = await other.bucket.get(CHECKPOINT)
        with pytest.raises(Diverged, match="another one"):
            await still.seal()
        assert await other.bucket.get(CHECKPOINT) == kept
        assert await still.seal() == 0


async def test_a_tree_that_the_broker_lost_comes_back_from_its_copy(place: Place, data: Path) -> None:
    await archive(place, 260)
    async with sealing(place, data) as sealer:
        await sealer.seal()
        before = await held(sealer)
    async with bus_of(place, "admin") as bus:
        await bus.client.jetstream().purge_stream("KV_digests")
    async with sealing(place, data) as sealer:
        assert await sealer.seal() == 0
        assert await held(sealer) == before


async def test_a_copy_that_was_lost_is_made_again(place: Place, data: Path) -> None:
    await archive(place, 3)
    async with sealing(place, data / "one") as sealer:
        await sealer.seal()
    async with sealing(place, data / "other") as sealer:
        assert await sealer.seal() == 0
    for name in ("checkpoint", "salts/0", "tile/0/000.p/3", "tile/entries/000.p/3"):
        assert (data / "one" / "runs" / name).read_bytes() == (data / "other" / "runs" / name).read_bytes()


async def test_a_tree_that_was_cut_off_or_forked_is_found_and_nothing_more_is_written(place: Place, data: Path) -> None:
    await archive(place, 3)
    async with sealing(place, data / "earlier") as sealer:
        await sealer.seal()
        early = await sealer.bucket.get(CHECKPOINT)
    await archive(place, 2)
    async with sealing(place, data / "copy") as sealer:
        await sealer.seal()
        kept = (data / "copy" / "runs" / "checkpoint").read_bytes()
        assert await sealer.bucket.replace(CHECKPOINT, kept, early or b"")
    async with sealing(place, data / "copy") as sealer:
        with pytest.raises(Diverged, match="the copy has 5 entries, the tree has 3"):
            await sealer.seal()
    assert (data / "copy" / "runs" / "checkpoint").read_bytes() == kept
    # Somebody with the broker makes another tree of as many entries, and has no key.
    async with bus_of(place, "admin") as bus:
        await bus.client.jetstream().purge_stream("KV_digests")
    async with sealing(place, data / "nowhere", keys=(b"o" * 32,)) as forger:
        await forger.seal()
    async with sealing(place, data / "copy") as sealer:
        with pytest.raises(Diverged, match="not one of this installation"):
            await sealer.seal()


async def test_a_new_key_signs_beside_the_old_one(place: Place, data: Path) -> None:
    old, new = b"o" * 32, b"n" * 32
    await archive(place, 2)
    async with sealing(place, data, keys=(old,)) as sealer:
        await sealer.seal()
    await archive(place, 2)
    async with sealing(place, data, keys=(new, old)) as sealer:
        await sealer.seal()
        note = await sealer.bucket.get(CHECKPOINT)
    for key in (old, new):
        async with sealing(place, data, keys=(key,)) as sealer:
            assert opened(note or b"", sealer.keys).size == 4


async def test_a_stream_that_was_made_anew_goes_on_in_the_same_tree(place: Place, data: Path) -> None:
    await archive(place, 3)
    async with bus_of(place, "admin") as bus:
        await bus.client.jetstream().delete_stream("RUNS")
    await prepare_broker(place.nats_url("admin"))
    await archive(place, 2)
    async with sealing(place, data) as sealer:
        assert [await sealer.seal(), await sealer.seal(), await sealer.seal()] == [3, 2, 0]
        _, entries = await held(sealer)
        assert [entry.seq for entry in entries] == [1, 2, 3, 1, 2]
        assert len({entry.incarnation for entry in entries}) == 2


async def test_a_copy_that_is_away_holds_nothing_up_unless_it_may_hold_the_tree(place: Place, data: Path) -> None:
    await archive(place, 2)
    async with sealing(place, data) as sealer:
        (data / "runs").write_text("a file in the place of the folder")
        with pytest.raises(Unavailable, match="copy of the digests cannot be read"):
            await sealer.seal()
        assert await sealer.bucket.get(CHECKPOINT) is None
        (data / "runs").unlink()
        assert await sealer.seal() == 2
        (data / "runs").rename(data / "away")
        (data / "runs").write_text("a file in the place of the folder")
        await archive(place, 2)
        with pytest.raises(Unavailable, match="copy of the digests"):
            await sealer.seal()
        assert (await held(sealer))[0] == 4
        (data / "runs").unlink()
        (data / "away").rename(data / "runs")
        assert await sealer.seal() == 0
        assert (data / "runs" / "checkpoint").read_bytes() == await sealer.bucket.get(CHECKPOINT)


class ObjectStore:
    """Takes and gives objects as S3 does, and deletes none: as a bucket whose objects are locked."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.away = False

    async def answer(self, request: web.Request) -> web.Response:
        if self.away:
            return web.Response(status=503)
        assert request.headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=writer/")
        if request.method == "PUT":
            self.objects[request.path] = await request.read()
            return web.Response(headers={"ETag": '"1"'})
        if request.method == "GET" and request.path in self.objects:
            made = {"ETag": '"1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
            return web.Response(body=self.objects[request.path], headers=made)
        refused = (404, "NoSuchKey") if request.method == "GET" else (403, "AccessDenied")
        return web.Response(status=refused[0], text=f"<Error><Code>{refused[1]}</Code></Error>")


async def test_a_bucket_from_which_nothing_can_be_deleted_keeps_every_state(
    place: Place, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = ObjectStore()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", bucket.answer)
    async with served(application) as url:
        given = {"ENDPOINT_URL": url, "ACCESS_KEY_ID": "writer", "SECRET_ACCESS_KEY": "s", "REGION": "r", "ALLOW_HTTP": "true"}
        for name, value in given.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        await archive(place, 2)
        async with sealing(place, "s3://audit/digests") as sealer:
            await sealer.seal()
            await archive(place, 2)
            bucket.away = True
            with pytest.raises(Unavailable, match="copy of the digests"):
                await sealer.seal()
            bucket.away = False
            assert await sealer.seal() == 0
        names = sorted(path.removeprefix("/audit/digests/runs/") for path in bucket.objects)
        states = [f"tile/{kind}/000.p/{width}" for kind in ("0", "entries") for width in (2, 4)]
        assert names == ["checkpoint", "salts/0", *states]
        async with bus_of(place, "admin") as bus:
            await bus.client.jetstream().purge_stream("KV_digests")
        async with sealing(place, "s3://audit/digests") as sealer:
            assert await sealer.seal() == 0
            assert (await held(sealer))[0] == 4
