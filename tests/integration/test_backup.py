"""`millrace backup` and `millrace restore` of a stopped stack: whole or refused, whatever kills them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from deploy.credentials import load_or_create
from deploy.folder import claim, run_folder
from deploy.positions import administrator
from deploy.prepare import prepare
from deploy.rebuild.parts import open_parts, replay
from deploy.stores import Stores
from shared import aggregate
from shared.bus import connected
from shared.envelope import new_id
from shared.health import Health
from shared.messages import RunRequested, RunStarted
from shared.messages.log import SERVICES
from shared.pull import api_request
from tests.support.places import open_folder
from tests.support.programs import BOUND, ended, program

RUNS = 5


async def backup(folder: Path, *options: str) -> tuple[int, str]:
    return await ended(await program(sys.executable, "-m", "deploy.backup", str(folder), *options))


async def restore(folder: Path, data: Path) -> asyncio.subprocess.Process:
    return await program(sys.executable, "-m", "deploy.restore", str(folder), "--data", str(data))


async def restored(folder: Path, data: Path) -> tuple[int, str]:
    return await ended(await restore(folder, data))


@asynccontextmanager
async def stores_of(data: Path) -> AsyncIterator[Stores]:
    """Run the stores of a folder, and nothing else, for the block."""
    with claim(data) as folder, run_folder(folder) as sockets:
        credentials = load_or_create(folder.credentials, None)
        stores = Stores(folder=folder, sockets=sockets, credentials=credentials, nats=None, postgres=None)
        try:
            await stores.start()
            yield stores
        finally:
            await stores.stop()


async def rows(data: Path) -> dict[str, tuple[int, str]]:
    """Return the number and a digest of the rows of every table; of checkpoints without the time of their last move."""
    found = {}
    async with stores_of(data) as stores:
        connection = await asyncpg.connect(stores.database_url)
        named = "SELECT schemaname || '.' || tablename AS name FROM pg_tables WHERE schemaname = ANY($1)"
        for table in await connection.fetch(named, list(SERVICES)):
            row = "(to_jsonb(t) - 'updated_at')::text"
            asked = f"SELECT count(*), coalesce(md5(string_agg({row}, '|' ORDER BY {row})), '') FROM {table['name']} t"
            found[table["name"]] = tuple(await connection.fetchrow(asked))
        await connection.close()
    return found


async def messages(data: Path) -> dict[str, tuple[int, int, int]]:
    """Return the first and last sequence and the number of messages of every stream, and how much waits at every consumer."""
    found = {}
    async with stores_of(data) as stores, administrator(stores.nats_url) as admin:
        for stream in (await api_request(admin, "$JS.API.STREAM.LIST", {}))["streams"]:
            name, state = stream["config"]["name"], stream["state"]
            found[name] = (max(1, state["first_seq"]), state["last_seq"], state["messages"])
            for consumer in (await api_request(admin, f"$JS.API.CONSUMER.LIST.{name}", {}))["consumers"]:
                found[consumer["name"]] = (0, 0, consumer["num_pending"])
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def data() -> AsyncIterator[Path]:
    """A data folder that has seen runs, with a backup beside it: made by a second call, after the first one was killed."""
    with open_folder() as place:
        path = place / "first"
        async with stores_of(path) as stores:
            credentials = load_or_create(path / "credentials.json", None)
            await prepare(nats_url=stores.nats_url, database_url=stores.database_url, credentials=credentials)
            async with connected(stores.nats_url_of("executor"), service="executor", health=Health("executor")) as bus:
                for _ in range(RUNS):
                    run = new_id()
                    asked = bus.seal(RunRequested(run=run, workflow="w", version="v", requested_by="t", timeout=60.0), org="acme")
                    begun = bus.seal(RunStarted(run=run, attempt=1, executor="e", tier="A"), org="acme", cause=asked.envelope)
                    await aggregate.append(bus.client, bus.journal, begun, await bus.publish(asked))
            connection = await asyncpg.connect(stores.database_url)
            async with administrator(stores.nats_url) as admin, open_parts(stores, ("executor", "logs")) as parts:
                await replay(parts, admin, connection, lambda *_: None)
            await connection.close()
        process = await program(sys.executable, "-m", "deploy.backup", str(place / "backup"), "--data", str(path))
        async with asyncio.timeout(BOUND):
            while not (place / "backup.unfinished" / "streams").exists():
                assert process.returncode is None
                await asyncio.sleep(0.002)
        process.kill()
        await process.communicate()
        assert not (place / "backup").exists()
        code, said = await restored(place / "backup.unfinished", place / "never")
        assert (code, "is no finished backup" in said) == (2, True), said
        code, said = await backup(place / "backup", "--data", str(path))
        assert code == 0, said
        assert (place / "backup.keys.json").stat().st_mode & 0o777 == 0o600
        yield path


async def test_a_restore_gives_equal_rows_and_streams_whatever_killed_the_ones_before(data: Path) -> None:
    made, place = data.parent / "backup", data.parent / "second"
    process = await restore(made, place)
    async with asyncio.timeout(BOUND):
        while not (data.parent / "second.restoring" / "nats" / "jetstream").exists():
            assert process.returncode is None
            await asyncio.sleep(0.002)
    process.kill()
    await process.communicate()
    assert not place.exists()
    code, said = await restored(made, place)
    assert code == 0, said
    before, now = await rows(data), await rows(place)
    assert before["executor.run"][0] == RUNS
    # Projections that had not begun have by now.
    began = {name for name in before if name.endswith(".checkpoint")}
    assert {name: now[name] for name in before.keys() - began} == {name: before[name] for name in before.keys() - began}
    assert await messages(place) == await messages(data)
    code, said = await restored(made, place)
    assert (code, said.count("\n"), "is not empty" in said) == (2, 1, True), said


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("streams/RUNS.snapshot", lambda old: old[:-1], "streams/RUNS.snapshot is damaged: it has"),
        ("postgres.dump", lambda old: old[:50] + bytes([old[50] ^ 1]) + old[51:], "postgres.dump is damaged: its SHA-256"),
        ("manifest.json", lambda old: old.replace(b'"cut":', b'"cut":1', 1), "manifest.json is damaged"),
        ("../copy.keys.json", lambda old: old.replace(b"mr_", b"mR_"), "does not hold the keys"),
        ("files.tar", None, "files.tar cannot be read"),
    ],
)
async def test_a_damaged_backup_is_refused_and_its_file_is_named(data: Path, file: str, change: object, says: str) -> None:
    place = data.parent
    shutil.rmtree(place / "copy", ignore_errors=True)
    shutil.copytree(place / "backup", place / "copy")
    shutil.copy(place / "backup.keys.json", place / "copy.keys.json")
    path = place / "copy" / file
    path.write_bytes(change(path.read_bytes())) if callable(change) else path.unlink()
    code, said = await restored(place / "copy", place / "fifth")
    assert (code, says in said) == (2, True), said
    assert not list(place.glob("fifth*"))
    if "keys" not in file:
        code, said = await backup(place / "copy", "--verify")
        assert (code in {1, 2}, says in said) == (True, True), said


async def test_a_backup_of_a_newer_version_is_refused(data: Path) -> None:
    place = data.parent
    shutil.copytree(place / "backup", place / "newer")
    path = place / "newer" / "manifest.json"
    told = json.loads(path.read_bytes())["manifest"] | {"version": "999.0.0"}
    encoded = json.dumps(told).encode()
    path.write_bytes(b'{"sha256":"%s","manifest":%s}' % (hashlib.sha256(encoded).hexdigest().encode(), encoded))
    code, said = await backup(place / "newer", "--verify")
    assert (code, "Millrace 999.0.0, which is newer" in said) == (2, True), said
    code, said = await backup(place / "backup", "--data", str(data))
    assert (code, "is not empty" in said) == (2, True), said


async def test_a_folder_whose_broker_lost_its_runs_is_filled_from_the_archive_once(data: Path) -> None:
    before = await messages(data)
    async with stores_of(data) as stores, administrator(stores.nats_url) as admin:
        await api_request(admin, "$JS.API.STREAM.DELETE.RUNS", None)

    async def refilled() -> tuple[int, str]:
        command = [sys.executable, "-m", "deploy.rebuild", "--from", "archive", "--data", str(data)]
        code, said = await ended(await program(*command))
        return code, said.splitlines()[-1]

    assert await refilled() == (0, f"Refilled: RUNS. Offered again: {RUNS} runs.")
    assert await refilled() == (0, "Refilled: nothing, since no stream is missing. Offered again: 0 runs.")
    first, last, count = before["RUNS"]
    offered = {"RUNS": (first, last + RUNS, count + RUNS), "executor-runs-normal": (0, 0, RUNS)}
    assert await messages(data) == before | offered
