"""Content of workspaces is collected once nothing refers to it, and not before, whoever is killed between two steps."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.executor.store import ExecutorStore
from services.executor.workspaces.garbage import Garbage
from services.executor.workspaces.history import History
from shared import db
from shared.blobs import Blobs
from shared.envelope import new_id, utc_now
from shared.errors import NotFound, Unavailable
from shared.pull import api_request
from shared.questions.files import PutFile, RemoveFile
from tests.support.inside import bus_of, eventually
from tests.support.river import river
from tests.support.servers import Place

CODE = b"from millrace import workflow\n\n@workflow\ndef greet() -> str:\n    return 'hello'\n"
LATER = timedelta(days=3)
# Uploads of one content after the other, for ever, with the rights of the gateway: what is killed in the middle of one.
UPLOADER = """
import asyncio, os, sys
from shared.blobs import Blobs
from shared.bus import connected
from shared.health import Health

async def main():
    async with connected(sys.argv[1], service="gateway", health=Health("gateway")) as bus:
        blobs = Blobs(bus.client, "workspace")
        async def parts():
            for _ in range(64):
                yield os.urandom(65536)
        while True:
            await blobs.put(parts())
            print("stored", flush=True)

asyncio.run(main())
"""


class Rows:
    """Rows that are never behind: the executor under test keeps them."""

    each = ()

    async def caught_up(self, _sequence: int) -> bool:
        return True


@dataclass
class Deps:
    """What collecting needs, beside an executor that is running."""

    bus: Any
    store: ExecutorStore
    history: History
    blobs: Blobs
    catalog: Any
    versions: Any
    rows: Any


@contextlib.asynccontextmanager
async def collecting(place: Place) -> AsyncIterator[Deps]:
    engine = db.open_engine(place.database_url("executor"), service="executor")
    async with bus_of(place, "executor") as bus:
        blobs = Blobs(bus.client, "workspace")
        yield Deps(bus, ExecutorStore(engine), History(engine), blobs, Rows(), Rows(), Rows())
    await engine.dispose()


def late(deps: Deps) -> Garbage:
    """Return a collector whose clock is so far ahead that everything is old."""
    return Garbage(deps, grace=0.0, now=lambda: utc_now() + LATER)


async def once(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def test_only_what_nothing_refers_to_is_collected(place: Place, data: Path) -> None:
    async with river(place, data) as outside, collecting(place) as deps:
        await outside.put_file("greet.py", CODE)
        await outside.put_file("data/notes.txt", b"first")
        await outside.put_file("data/notes.txt", b"second")
        # Of another organization, whose content is the same.
        await outside.put_file("data/other.txt", b"first", org="other")
        await outside.put_file("data/gone.txt", b"gone")
        await outside.bus.ask(RemoveFile(id=new_id(), org="default", actor="test", path="data/gone.txt"))
        never = await deps.blobs.put(once(b"never committed"))
        # Young: an upload may still be committed.
        assert await Garbage(deps).round() == 0
        assert await Garbage(deps, grace=0.0, now=lambda: utc_now() - LATER).round() == 0
        assert await late(deps).round() == 1
        assert await deps.blobs.stat(never.sha256) is None
        # Kept history, code that is served, what it is made of, and the present are all there.
        for content in (b"first", b"second", b"gone", CODE):
            assert await deps.blobs.read(hashlib.sha256(content).hexdigest()) == content
        version = await outside.version("greet")
        run = await outside.request("greet")
        await outside.run(run, "succeeded")
        # Other code: the older bundle is nobody's any more, its file is a version of its path still.
        await outside.put_file("greet.py", CODE.replace(b"hello", b"hi"))
        assert await late(deps).round() >= 1
        assert await deps.blobs.stat(version) is None
        assert await deps.blobs.read(hashlib.sha256(CODE).hexdigest()) == CODE
        assert (await outside.run(await outside.request("greet"), "succeeded")).result == "hi"
        assert await late(deps).round() == 0


async def test_a_commit_finds_its_content_or_is_refused_while_everything_is_collected(
    place: Place, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every commit renews the records of its content, and what was renewed before the commit began is old: as if commits were as
    # far apart as the grace is long.
    monkeypatch.setattr("services.executor.app.GRACE", 0.0)
    async with river(place, data) as outside, collecting(place) as deps:
        over = asyncio.Event()
        began = utc_now()

        async def collect() -> None:
            garbage = Garbage(deps, grace=0.0, now=lambda: began)
            while not over.is_set():
                with contextlib.suppress(Unavailable):
                    await garbage.round()

        collector = asyncio.create_task(collect())
        kept: dict[str, bytes] = {}
        refused = 0
        for number in range(40):
            began = utc_now()
            content = b"%d" % random.randrange(6) * 100
            blob = await Blobs(outside.bus.client, "workspace").put(once(content))
            await asyncio.sleep(random.random() / 50)
            path = f"data/{number % 5}.txt"
            try:
                await outside.bus.ask(
                    PutFile(id=new_id(), org="default", actor="test", path=path, sha256=blob.sha256, size=blob.size)
                )
            except NotFound:
                refused += 1
            else:
                kept[path] = content
        over.set()
        await collector
        assert kept
        await late(deps).round()
        for path, content in kept.items():
            row = await deps.store.file("default", path)
            assert row is not None
            assert await deps.blobs.read(row["sha256"]) == content


async def test_an_upload_that_is_killed_leaves_nothing_for_good(place: Place, data: Path) -> None:
    async with river(place, data) as outside, collecting(place) as deps:
        await outside.put_file("data/notes.txt", b"notes")

        async def uploads() -> int:
            return len(await deps.blobs.uploads())

        for _ in range(3):
            before = await uploads()
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", UPLOADER, place.nats_url("gateway")), stdout=asyncio.subprocess.PIPE, env=dict(os.environ)
            )
            assert process.stdout is not None
            await process.stdout.readline()

            async def is_under_way(before: int = before) -> bool:
                return await uploads() >= before + 2

            await eventually(is_under_way)
            process.send_signal(signal.SIGKILL)
            await process.wait()
        assert await uploads() >= 7
        assert await Garbage(deps).round() == 0
        garbage = late(deps)
        while await garbage.round():
            pass
        assert await deps.blobs.read(hashlib.sha256(b"notes").hexdigest()) == b"notes"
        # The one file is what is left, and markers of what was removed.
        assert await uploads() == 1
        state = (await api_request(deps.bus.client, "$JS.API.STREAM.INFO.OBJ_workspace", None))["state"]
        assert state["bytes"] < 100_000
