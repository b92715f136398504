"""An installation of the last release is brought to this one piece by piece, and back: services of both work beside each other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest

from deploy.credentials import SERVICES, Credentials
from deploy.files import write_private
from deploy.permissions import nats_config
from deploy.prepare import prepare
from deploy.service_env import environment_of
from deploy.stack import local_url
from tests.support.client import Client
from tests.support.inside import eventually
from tests.support.places import open_folder
from tests.support.released import ROOT, released, tree_of
from tests.support.stack import Up

SECRET = "rolling-upgrade"
WEBHOOKS = 12
WORKFLOW = b"""
from millrace import workflow


@workflow(name="count", timeout=60)
def count(event: dict) -> str:
    return event["data"]["after"]
"""


async def test_services_of_both_releases_share_what_comes_and_either_goes_on_alone(tmp_path: Path) -> None:
    old = tmp_path / "old"
    if (why_not := tree_of(released().commit, old)) is not None:
        pytest.skip(why_not)
    with open_folder() as data:
        up = Up(data / "data", root=old)
        try:
            await up.start()
            async with aiohttp.ClientSession() as session:
                await _through(up, session, data)
        finally:
            await up.clear()


async def _through(up: Up, session: aiohttp.ClientSession, folder: Path) -> None:
    before = Client(session, up.ready)
    await before.put_file("count.py", WORKFLOW)
    source = await before.call("PUT", "/api/v1/sources/hub", body={"adapter": "github", "settings": {"secret": SECRET}})
    hook = f"/hooks/{source['id']}"
    await before.call("PUT", "/api/v1/subscriptions/count", body={"source": "hub", "event": "push", "workflow": "count"})
    await _each_has_its_run([before], hook, 1)

    credentials = msgspec.json.decode((up.data / "credentials.json").read_bytes(), type=Credentials)
    await _prepared(up, credentials)
    async with _joined(up, credentials, folder) as url:
        after = Client(session, up.ready | {"url": url})
        await _each_has_its_run([before, after], hook, WEBHOOKS)
        async with _without_services_of(up):
            await _each_has_its_run([after], hook, WEBHOOKS)
        await up.until_ready_again()
        await _each_has_its_run([after, before], hook, WEBHOOKS)
    # Back on the last release, with the tables of this one.
    await up.until_ready_again()
    await _each_has_its_run([before], hook, WEBHOOKS)


async def _each_has_its_run(clients: list[Client], hook: str, count: int) -> None:
    """Send webhooks to the gateways in turn; each of these shows that each has one run, and its result."""
    sent: dict[str, str] = {}
    for number in range(count):
        client = clients[number % len(clients)]
        marker = f"{len(clients)}-{number}-{os.urandom(4).hex()}"
        status, answer = await client.github(client.url + hook, SECRET, msgspec.json.encode({"after": marker}))
        assert status == 202, answer
        sent[answer["id"]] = marker
    for client in clients:
        for delivery, marker in sent.items():
            shown = await client.delivery(delivery, "routed", within=90)
            (run,) = shown["runs"]
            assert (await client.run(run["id"], "succeeded", within=90))["result"] == marker


async def _prepared(up: Up, credentials: Credentials) -> None:
    """Do what comes first in an upgrade: the broker is told what this release's users may, then streams and tables are brought."""
    folder = up.data / "nats"
    port = int((folder / "port").read_text())
    text = nats_config(
        credentials, listen=f"127.0.0.1:{port}", store_dir=str(folder), ports_dir=str(folder), server_name="millrace"
    )
    write_private(folder / "nats.conf", text.encode())
    os.kill(up.ready["nats_pid"], signal.SIGHUP)
    log = up.data / "logs" / "nats.log"
    await eventually(lambda: _says(log, "Reloaded server configuration"))
    await prepare(nats_url=up.ready["nats_url"], database_url=up.ready["database_url"], credentials=credentials)


async def _says(log: Path, words: str) -> bool:
    return words in await asyncio.to_thread(log.read_text)


@asynccontextmanager
async def _joined(up: Up, credentials: Credentials, folder: Path) -> AsyncIterator[str]:
    """Run one of each of this release's services beside the others for the block, ready; yields the gateway's address."""
    async with contextlib.AsyncExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        url = local_url(listening)
        urls = {"nats_url": up.ready["nats_url"], "database_url": up.ready["database_url"], "public_url": url}
        sockets = []
        for service in SERVICES:
            place = folder / f"new-{service}"
            place.mkdir()
            sockets.append(place / "health.sock")
            told = environment_of(service, credentials, **urls) | {
                "MILLRACE_HEALTH_ADDR": f"unix:{sockets[-1]}",
                "MILLRACE_DATA": str(place),
                "MILLRACE_LISTEN_FD": str(listening.fileno()),
                "MILLRACE_UNSAFE": "1",
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
            }
            if os.geteuid() == 0:
                told["MILLRACE_SANDBOX_UID"] = "65532"
                place.chmod(0o711)
            process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-P", "-m", "services", service],
                env=told,
                cwd=place,
                pass_fds=(listening.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
            )
            stack.push_async_callback(_ended, process)
        for one in sockets:
            await eventually(lambda one=one: _is_ready(one), within=90)
        yield url


async def _ended(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        async with asyncio.timeout(60):
            await process.wait()
    assert process.returncode == 0


async def _is_ready(health: Path) -> bool:
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(health))) as session,
            session.get("http://service/readyz") as response,
        ):
            return response.ok
    except (aiohttp.ClientError, OSError):
        return False


@asynccontextmanager
async def _without_services_of(up: Up) -> AsyncIterator[None]:
    """End the last release's services for the block; their supervisor, which would start them again, stands still."""
    assert up.process is not None
    pids = up.read()["services"].values()
    up.process.send_signal(signal.SIGSTOP)
    try:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        for pid in pids:
            await eventually(lambda pid=pid: _is_gone(pid), within=60)
        yield
    finally:
        up.process.send_signal(signal.SIGCONT)


async def _is_gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text("utf-8", "replace").rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
