"""Three brokers in network namespaces of their own, on a bridge in that of the drill: each can be cut off from all others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from deploy.broker import binary
from deploy.credentials import Credentials, load_or_create
from deploy.errors import StartError
from deploy.folder import claim
from deploy.nats_cluster import NODES
from deploy.positions import administrator
from deploy.service_env import nats_config_of
from deploy.supervise import launcher
from shared.errors import Unavailable
from shared.pull import StreamError, api_request
from tests.chaos.cluster.drill import Away
from tests.chaos.installation import ASKED_EVERY, START_WITHIN, DrillError, Installation, installed

INSIDE = "MILLRACE_DRILL_OWN_NETWORK"
NETWORK = "10.77.0"
BRIDGE = 254
URL = "nats://" + ",".join(f"{NETWORK}.{node}:4222" for node in NODES)


def enter(arguments: list[str]) -> str | None:
    """Go on in a network of this process' own; return why that is not possible. In one already: None."""
    if os.environ.get(INSIDE):
        return None
    ways = [["--net"], ["--user", "--map-root-user", "--net"]]
    unshare, address = shutil.which("unshare"), shutil.which("ip")
    if unshare is None or address is None:
        return f"{'`unshare` (util-linux)' if unshare is None else '`ip` (iproute2)'} is not installed"
    said = ""
    for way in ways[int(os.geteuid() != 0) :]:
        # All that is needed is tried: a kernel may allow the namespace, and no bridge in it.
        tried = subprocess.run(
            [unshare, *way, address, "link", "add", "br0", "type", "bridge"], capture_output=True, text=True, check=False
        )
        if tried.returncode == 0:
            os.environ[INSIDE] = "1"
            os.execv(unshare, [unshare, *way, sys.executable, "-m", "tests.chaos.cluster", *arguments])
        said = tried.stderr.strip()
    return f"this user may make no network of its own here ({said})"


@asynccontextmanager
async def started(place: Path) -> AsyncIterator[Installation]:
    """Start the brokers and, outside their networks, an installation that is given them, for the block."""
    with claim(place / "data") as folder:
        credentials = load_or_create(folder.credentials, None)
    async with contextlib.AsyncExitStack() as stack:
        await _run("ip", "link", "set", "lo", "up")
        await _run("ip", "link", "add", "br0", "type", "bridge")
        await _run("ip", "addr", "add", f"{NETWORK}.{BRIDGE}/24", "dev", "br0")
        await _run("ip", "link", "set", "br0", "up")
        for node in NODES:
            await stack.enter_async_context(_broker(place, node, credentials))
        admin = f"nats://admin:{credentials.nats_admin}@{URL.removeprefix('nats://')}"
        await _all_answer(admin)
        yield await stack.enter_async_context(installed(place, options=("--nats", admin, "--replicas", "2")))


def cut(seconds: float) -> Away:
    """Return how a broker is cut off from everybody for so many seconds: nothing arrives, and nobody is told."""

    @asynccontextmanager
    async def away(name: str) -> AsyncIterator[None]:
        link = f"v{name.rpartition('-')[2]}"
        await _run("ip", "link", "set", link, "down")
        try:
            await asyncio.sleep(seconds)  # that is the disturbance
            yield
        finally:
            await _run("ip", "link", "set", link, "up")

    return away


@asynccontextmanager
async def _broker(place: Path, node: int, credentials: Credentials) -> AsyncIterator[None]:
    folder = place / f"broker-{node}"
    folder.mkdir(mode=0o700)
    config = folder / "nats.conf"
    config.touch(0o600)
    config.write_text(nats_config_of(credentials, URL).replace("/data/jetstream", str(folder)))
    process = await asyncio.create_subprocess_exec(
        *launcher(None, signal.SIGKILL),
        *[str(shutil.which("unshare")), "--net", "--", str(binary()), "-c", str(config), "-l", str(place / f"broker-{node}.log")],
        env={"NATS_SERVER_NAME": f"millrace-{node}", "PATH": os.defpath},
        stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        await _until_apart(process.pid)
        inside = ("nsenter", "--net", "--target", str(process.pid), "ip")
        await _run("ip", "link", "add", f"v{node}", "type", "veth", "peer", "name", f"w{node}")
        await _run("ip", "link", "set", f"v{node}", "master", "br0", "up")
        await _run("ip", "link", "set", f"w{node}", "netns", str(process.pid))
        await _run(*inside, "addr", "add", f"{NETWORK}.{node}/24", "dev", f"w{node}")
        await _run(*inside, "link", "set", f"w{node}", "up")
        await _run(*inside, "link", "set", "lo", "up")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _until_apart(pid: int) -> None:
    """Wait until a process is in another network than this one."""
    mine = Path("/proc/self/ns/net").readlink()
    async with asyncio.timeout(START_WITHIN):
        while Path(f"/proc/{pid}/ns/net").readlink() == mine:
            await asyncio.sleep(ASKED_EVERY)  # nothing tells of it


async def _all_answer(url: str) -> None:
    """Wait until JetStream answers: until then the installation would be refused. Raises `DrillError`."""
    said = "nothing"
    try:
        async with asyncio.timeout(START_WITHIN):
            while True:
                try:
                    async with administrator(url) as client:
                        await api_request(client, "$JS.API.INFO", None)
                except (StartError, Unavailable, StreamError) as error:
                    said = str(error)
                    await asyncio.sleep(ASKED_EVERY)  # nothing tells of it
                else:
                    return
    except TimeoutError as error:
        raise DrillError(f"the brokers do not answer within {START_WITHIN:.0f} s: {said}") from error


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise DrillError(f"{' '.join(command)}: {said.decode('utf-8', 'replace').strip()}")
