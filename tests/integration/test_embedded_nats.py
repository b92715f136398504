"""The embedded NATS server keeps its port and what it stored, whatever ended it."""

import asyncio
import json
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import nats.errors
import pytest
from nats.aio.client import Client
from nats.js.api import StreamConfig

from deploy import broker, staging
from deploy.broker import ADMIN, EmbeddedNats, check_version
from deploy.errors import StartError
from deploy.staging import MEMORY, Staging
from shared.envelope import new_id

BOUND = 30.0
PASSWORD = "a-password-of-this-test"


def config(*, listen: str, store_dir: str, ports_dir: str, server_name: str) -> str:
    """Return the smallest configuration that has JetStream and a password."""
    return json.dumps(
        {
            "listen": listen,
            "server_name": server_name,
            "ports_file_dir": ports_dir,
            "jetstream": {"store_dir": store_dir, "max_file_store": 100_000_000, "sync_interval": "always"},
            "accounts": {"MILLRACE": {"jetstream": "enabled", "users": [{"user": ADMIN, "password": PASSWORD}]}},
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "a data folder" / "nats"
    folder.mkdir(parents=True)
    return folder


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[EmbeddedNats]:
    server = EmbeddedNats(
        folder=folder,
        pidfile=folder.parent / "nats.pid",
        log=folder.parent / "nats.log",
        config=config,
        password=PASSWORD,
    )
    try:
        async with asyncio.timeout(BOUND):
            await server.start()
        yield server
    finally:
        await server.stop(grace=5)


async def stored(server: EmbeddedNats) -> int:
    client = await nats.connect(server.url(ADMIN, PASSWORD))
    try:
        jetstream = client.jetstream()
        await jetstream.add_stream(name="THINGS", subjects=["things"])
        return (await jetstream.publish("things", b"thing")).seq
    finally:
        await client.close()


async def test_port_and_messages_survive_a_restart(folder: Path) -> None:
    async with running(folder) as server:
        address = server.url(ADMIN, PASSWORD)
        assert await stored(server) == 1
    async with running(folder) as server:
        assert server.url(ADMIN, PASSWORD) == address
        assert await stored(server) == 2


async def test_a_killed_server_comes_back_on_its_port(folder: Path) -> None:
    async with running(folder) as server:
        assert await stored(server) == 1
        killed = server.supervised.state.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        async with asyncio.timeout(BOUND):
            while True:
                try:
                    assert await stored(server) == 2
                    break
                except (OSError, nats.errors.Error):
                    await asyncio.sleep(0.02)
        assert server.supervised.state.restarts == 1
        assert server.supervised.state.pid not in {None, killed}


@pytest.mark.parametrize(("cores", "threads"), [(1, "1"), (2, "1"), (4, None)])
async def test_on_few_cores_the_server_runs_on_one_at_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cores: int, threads: str | None
) -> None:
    monkeypatch.setattr(broker, "cores", lambda: cores)
    async with running(folder) as server:
        pid = server.supervised.state.pid
        environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
        given = dict(variable.split("=", 1) for variable in environment if variable)
        assert given.get("GOMAXPROCS") == threads
        assert await stored(server) == 1


async def committed(server: EmbeddedNats) -> int:
    """Commit an atomic batch of three; returns the sequence of the last one."""
    client = await nats.connect(server.url(ADMIN, PASSWORD))
    try:
        await client.jetstream().add_stream(StreamConfig(name="THINGS", subjects=["things"], allow_atomic=True))
        batch = new_id()
        for number in (1, 2):
            await client.publish("things", b"thing", headers={"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)})
        last = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": "3", "Nats-Batch-Commit": "1"}
        answer = json.loads((await client.request("things", b"thing", timeout=BOUND, headers=last)).data)
        assert answer["count"] == 3
        return int(answer["seq"])
    finally:
        await client.close()


@pytest.mark.skipif(not MEMORY.is_dir(), reason="this system has no /dev/shm")
async def test_batches_are_staged_in_memory_also_after_the_server_was_killed(folder: Path) -> None:
    async with running(folder) as server:
        assert await committed(server) == 3
        await server.stage()
        batches = next(folder.glob("jetstream/*/streams/THINGS")) / "batches"
        place = batches.readlink()
        assert place.is_relative_to(MEMORY)
        assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
        assert await committed(server) == 6
        killed = server.supervised.state.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        async with asyncio.timeout(BOUND):
            while server.supervised.state.pid in {None, killed} or not batches.is_symlink():
                await asyncio.sleep(0.02)
        assert await committed(server) == 9
        async with asyncio.timeout(BOUND):
            while list(place.iterdir()):
                await asyncio.sleep(0.02)
    assert not place.parent.exists()


async def test_a_place_of_somebody_else_is_not_used(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "MEMORY", tmp_path)
    mine = Staging(folder)
    assert mine.link()
    place = next(tmp_path.glob("millrace-*"))
    place.chmod(0o755)
    assert not mine.link()
    place.rmdir()
    place.symlink_to(folder)
    assert not mine.link()
    mine.remove()
    assert folder.is_dir()
    monkeypatch.setattr(staging, "MEMORY", tmp_path / "nothing")
    assert not Staging(folder).link()


async def test_a_port_taken_by_another_program_is_replaced(folder: Path) -> None:
    async with running(folder) as server:
        before = server.url(ADMIN, PASSWORD)
    with socket.socket() as other:
        # What the server had is over, and may not be forgotten yet.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", int((folder / "port").read_text())))
        other.listen()
        async with running(folder) as server:
            assert server.url(ADMIN, PASSWORD) != before
            assert await stored(server) == 1
            assert server.url(ADMIN, PASSWORD).endswith(f":{int((folder / 'port').read_text())}")


async def test_a_stale_ports_file_is_not_believed(folder: Path) -> None:
    (folder / "nats-server_1.ports").write_text('{"nats": ["nats://127.0.0.1:1"]}')
    async with running(folder) as server:
        assert not server.url(ADMIN, PASSWORD).endswith(":1")


async def test_a_damaged_port_note_means_a_new_port(folder: Path) -> None:
    (folder / "port").write_text("99999999")
    async with running(folder) as server:
        assert await stored(server) == 1


async def test_only_the_owner_reads_the_configuration(folder: Path) -> None:
    async with running(folder):
        assert stat.S_IMODE((folder / "nats.conf").stat().st_mode) == 0o600


async def test_a_wrong_password_is_refused(folder: Path) -> None:
    async def quiet(_: Exception) -> None:
        """The refusal is expected."""

    client = Client()
    async with running(folder) as server:
        with pytest.raises(nats.errors.Error, match="Authorization"):
            await client.connect(server.url(ADMIN, "wrong"), allow_reconnect=False, error_cb=quiet)
        await client.close()


@pytest.mark.parametrize("said", ["nats-server: v2.11.9", "something else"])
def test_a_server_without_what_is_needed_is_refused_in_one_sentence(tmp_path: Path, said: str) -> None:
    program = tmp_path / "nats-server"
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o755)
    with pytest.raises(StartError, match=r"needs 2\.12 or later"):
        check_version(program)


async def test_a_server_that_stands_still_is_told_from_its_first_start_on_and_not_ended(folder: Path) -> None:
    async with running(folder) as server:
        pid = server.supervised.state.pid
        assert pid is not None
        # Of it a quarter of a minute is how long a silence lasts before it is told.
        async with asyncio.timeout(4 * BOUND):
            while not server.supervised._answers:
                await asyncio.sleep(0.05)
            os.kill(pid, signal.SIGSTOP)
            try:
                while server.supervised.state.silent_since is None:
                    await asyncio.sleep(0.05)
            finally:
                os.kill(pid, signal.SIGCONT)
            while server.supervised.state.silent_since is not None:
                await asyncio.sleep(0.05)
        assert (server.supervised.state.pid, server.supervised.state.restarts) == (pid, 0)
        assert await stored(server) == 1
