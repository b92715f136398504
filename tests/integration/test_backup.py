"""`millrace backup` and `millrace restore` of a stopped stack: whole or refused, whatever kills them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import msgspec
import pytest
import pytest_asyncio

from deploy.backup import manifest, remote
from deploy.backup.__main__ import _upload as upload
from deploy.backup.__main__ import _verify as verified
from deploy.credentials import load_or_create
from deploy.errors import StartError
from deploy.positions import administrator
from deploy.prepare import prepare
from deploy.rebuild.display import Display
from deploy.rebuild.parts import open_parts, replay
from deploy.restore.__main__ import _download as download
from deploy.restore.restore import Restore
from shared import aggregate
from shared.bus import connected
from shared.envelope import new_id
from shared.health import Health
from shared.messages import RunRequested, RunStarted
from shared.pull import api_request
from shared.runs import RUN_STREAMS
from shared.streams import work_of_runs
from tests.support import states
from tests.support.buckets import Buckets
from tests.support.places import open_folder
from tests.support.programs import BOUND, ended, program
from tests.support.web import served

RUNS = 5


def nothing(*_: object) -> None:
    """Show no progress."""


async def backup(folder: Path | str, *options: str) -> tuple[int, str]:
    return await ended(await program(sys.executable, "-m", "deploy.backup", str(folder), *options))


async def restore(folder: Path | str, data: Path, *options: str) -> asyncio.subprocess.Process:
    return await program(sys.executable, "-m", "deploy.restore", str(folder), "--data", str(data), *options)


async def restored(folder: Path, data: Path) -> tuple[int, str]:
    return await ended(await restore(folder, data))


async def messages(data: Path) -> dict[str, tuple[int, int, int]]:
    async with states.opened(data) as (_, admin, _):
        return await states.positions(admin)


def same_rows(before: dict[str, tuple[int, str]], now: dict[str, tuple[int, str]]) -> bool:
    """Return whether all rows are equal; projections that had not begun have by now, which their checkpoints say."""
    return all(now[name] == before[name] for name in before if not name.endswith(".checkpoint"))


async def killed(process: asyncio.subprocess.Process, begun: Path, whole: Path) -> bool:
    """Kill a program once it has begun; return whether `whole` was not there yet: else it is taken away."""
    async with asyncio.timeout(BOUND):
        while not begun.exists() and process.returncode is None:
            await asyncio.sleep(0.002)
    if process.returncode is None:
        process.kill()
    said, _ = await process.communicate()
    if not whole.exists():
        assert process.returncode == -signal.SIGKILL, said
        return True
    # This process stood still meanwhile, and that one did not.
    shutil.rmtree(whole)
    return False


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def data() -> AsyncIterator[Path]:
    """A data folder that has seen runs, with a backup beside it: made by a second call, after the first one was killed."""
    with open_folder() as place:
        path = place / "first"
        async with states.stores_of(path) as stores:
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
        given, begun = [str(place / "backup"), "--data", str(path)], place / "backup.unfinished" / "streams"
        while not await killed(await program(sys.executable, "-m", "deploy.backup", *given), begun, place / "backup"):
            (place / "backup.keys.json").unlink()
        code, said = await restored(place / "backup.unfinished", place / "never")
        assert (code, "is no finished backup" in said) == (2, True), said
        code, said = await backup(place / "backup", "--data", str(path))
        assert code == 0, said
        assert (place / "backup.keys.json").stat().st_mode & 0o777 == 0o600
        yield path


async def test_a_restore_gives_equal_rows_and_streams_whatever_killed_the_ones_before(data: Path) -> None:
    made, place = data.parent / "backup", data.parent / "second"
    begun = data.parent / "second.restoring" / "nats" / "jetstream"
    while not await killed(await restore(made, place), begun, place):
        pass
    code, said = await restored(made, place)
    assert code == 0, said
    async with states.opened(data) as (_, admin, connection):
        before = await states.rows(connection), await states.positions(admin)
    assert before[0]["executor.run"][0] == RUNS
    async with states.opened(place) as (_, admin, connection):
        assert same_rows(before[0], await states.rows(connection))
        assert await states.positions(admin) == before[1]
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


async def test_a_backup_goes_to_a_place_of_a_url_and_from_there_into_vacant_servers_of_somebody_else(data: Path) -> None:
    place = data.parent
    url, keys = (place / "else where").as_uri(), place / "elsewhere.keys.json"
    with pytest.raises(StartError, match="name a file for them with --keys"):
        await upload(url, place / "staging", data, None, None, None)
    code, said = await backup(url, "--data", str(data), "--keys", str(keys))
    assert (code, f"{url} holds the state of" in said) == (0, True), said
    assert not list(place.glob("*.staging*"))
    assert await verified(url)
    with pytest.raises(StartError, match=r"holds files.tar already; name another place"):
        await upload(url, place / "staging", data, keys, None, None)
    (place / "servers").mkdir()
    shutil.copy(keys, place / "servers" / "credentials.json")
    (place / "servers" / "version").write_text("0.0.1")
    async with states.opened(place / "servers") as (stores, admin, connection):
        servers = {"nats": stores.nats_url, "postgres": stores.database_url}
        assert await download(url, place / "third", keys, servers)
        assert not list(place.glob("*.downloaded"))
        assert not (place / "third" / "postgres").exists()
        now = await states.rows(connection), await states.positions(admin)
        again = Restore(place / "backup", place / "backup.keys.json", Display(), **servers)
        with pytest.raises(StartError, match="NATS server holds the stream AUDIT already"):
            await again.run(place / "seventh")
        for name in (await api_request(admin, "$JS.API.STREAM.NAMES", {}))["streams"]:
            await api_request(admin, f"$JS.API.STREAM.DELETE.{name}", None)
        with pytest.raises(StartError, match="Postgres database holds the schema gateway already"):
            await again.run(place / "seventh")
        assert now[0] == await states.rows(connection)
    async with states.opened(data) as (_, admin, connection):
        assert same_rows(await states.rows(connection), now[0])
        assert now[1] == await states.positions(admin)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(remote, "PART", 16 * 1024)
    monkeypatch.setattr(remote, "TOGETHER", 1)
    return 16 * 1024


async def test_an_upload_that_broke_off_goes_on_in_parts_and_mixes_with_nothing(
    data: Path, small_parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, buckets, copy = data.parent / "backup", Buckets(), data.parent / "fetched"
    copy.mkdir()
    made = manifest.read(folder)
    async with served(buckets.application) as url:
        given = {"ENDPOINT_URL": url, "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "s", "REGION": "r", "ALLOW_HTTP": "true"}
        for name, value in given.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        place = remote.Remote("s3://backups/first")
        buckets.fail_after = 8
        with pytest.raises(StartError, match=r"s3://backups/first cannot be reached or refuses: .* call it again"):
            await place.upload(folder, made, nothing)
        with pytest.raises(StartError, match="holds no finished backup"):
            await place.download(copy, nothing)
        buckets.fail_after, before = None, dict(buckets.objects)
        await place.upload(folder, made, nothing)
        assert sorted(buckets.objects) == sorted(
            f"/backups/first/{name}" for name in (manifest.NAME, *(one.name for one in made.files))
        )
        # What was there is not written again, and nothing was ever sent as a whole that is larger than a part.
        assert all(buckets.objects[name] is content for name, content in before.items() if name in buckets.objects)
        assert max(map(len, buckets.objects.values())) > 2 * small_parts
        assert buckets.largest <= max(small_parts, (folder / manifest.NAME).stat().st_size)
        # A part of a file is there already, and one of another backup.
        largest, other = sorted(made.files, key=lambda file: -file.size)[:2]
        (copy / "streams").mkdir(exist_ok=True)
        (copy / largest.name).write_bytes((folder / largest.name).read_bytes()[:small_parts])
        (copy / other.name).write_bytes(b"something else")
        await place.download(copy, nothing)
        assert manifest.damaged(copy, made, nothing) == []
        assert (await place.damaged(copy, nothing))[1] == []
        # Another backup, or anything else, is not mixed in.
        buckets.objects["/backups/first/notes.txt"] = b"mine"
        with pytest.raises(StartError, match=r"holds notes.txt, which is not of this backup"):
            await place.upload(folder, made, nothing)
        del buckets.objects["/backups/first/notes.txt"]
        sealed = folder.parent / "other"
        sealed.mkdir()
        manifest.seal(sealed, msgspec.structs.replace(made, moment="2026-01-01T00:00:00Z"))
        with pytest.raises(StartError, match="which is not of this backup"):
            await place.upload(sealed, made, nothing)
        path = f"/backups/first/{largest.name}"
        buckets.objects[path] = buckets.objects[path][:-1] + b"?"
        assert (await place.damaged(copy, nothing))[1] == [f"s3://backups/first/{largest.name} is missing or damaged."]
        shutil.rmtree(copy / "streams")
        (copy / largest.name).unlink(missing_ok=True)
        with pytest.raises(StartError, match=f"{largest.name} is damaged"):
            await place.download(copy, nothing)
        # Files are written by the names that a manifest has, which comes from elsewhere.
        manifest.seal(sealed, msgspec.structs.replace(made, files=[manifest.File("streams/../../x", 1, "")]))
        buckets.objects["/backups/first/manifest.json"] = (sealed / manifest.NAME).read_bytes()
        with pytest.raises(StartError, match=r"names a file that no backup has: 'streams/../../x'"):
            await place.download(copy, nothing)


async def test_a_folder_whose_broker_lost_its_runs_is_filled_from_the_archive_once(data: Path) -> None:
    before = await messages(data)
    async with states.opened(data) as (_, admin, _):
        for stream in RUN_STREAMS:
            await api_request(admin, f"$JS.API.STREAM.DELETE.{stream}", None)

    async def refilled() -> tuple[int, str]:
        command = [sys.executable, "-m", "deploy.rebuild", "--from", "archive", "--data", str(data)]
        code, said = await ended(await program(*command))
        return code, said.splitlines()[-1]

    assert await refilled() == (0, f"Refilled: {', '.join(RUN_STREAMS)}. Offered again: {RUNS} runs.")
    assert await refilled() == (0, "Refilled: nothing, since no stream is missing. Offered again: 0 runs.")
    now, offered, more = await messages(data), {}, 0
    for work in work_of_runs()[len(RUN_STREAMS) : 2 * len(RUN_STREAMS)]:  # those of the priority that the runs have
        first, last, count = before[work.stream]
        more += (here := now[work.stream][2] - count)
        offered |= {work.stream: (first, last + here, count + here), work.name: (0, 0, here)}
    assert (more, now) == (RUNS, before | offered)
