"""What is measured, started: the whole stack as an operator starts it, or only its broker and its gateway."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import nats

from bench.support.limits import STREAM, SUBJECT
from bench.support.outcome import BenchError
from deploy.broker import ADMIN, EmbeddedNats
from deploy.credentials import Credentials, load_or_create
from deploy.demo import Client
from deploy.folder import DataFolder, claim, run_folder
from deploy.local import listen
from deploy.permissions import nats_config
from deploy.stack import local_url
from deploy.stores import Stores
from deploy.supervise import Program, Supervised, launcher
from shared.encryption import Keyring

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN = 150.0
# A little more than the 15 s within which the stack promises to be gone.
GONE_WITHIN = 20.0
GATEWAY_WITHIN = 20.0
# Where the gateway alone is measured nothing is worked off.
UNBOUNDED = {"MILLRACE_MAX_BACKLOG": "100000000"}


class Whole(msgspec.Struct, frozen=True):
    """A running stack: `api` speaks to it with the platform key, `ready` is what ready.json says."""

    api: Client
    ready: dict[str, Any]

    @property
    def pids(self) -> dict[str, int]:
        """The processes by name."""
        return {**self.ready["services"], "nats": self.ready["nats_pid"], "postgres": self.ready["postgres_pid"]}


class Alone(msgspec.Struct, frozen=True):
    """A running broker and one running gateway or more, `urls` by their names; `url` is that of the first."""

    urls: dict[str, str]
    nats_url: str
    pids: dict[str, int]

    @property
    def url(self) -> str:
        """The address of the first gateway."""
        return next(iter(self.urls.values()))


@asynccontextmanager
async def whole(data: Path, **environment: str) -> AsyncIterator[Whole]:
    """Run the whole stack on the data folder `data` for the block, with what its operator chose in the environment."""
    # Where a sandbox is available runs use it; where not, the figures say so by their tier.
    command = [sys.executable, "-m", "deploy.local", "--data", str(data), "--port", "0", "--unsafe"]
    async with _process(command, environment, GONE_WITHIN) as process:
        await _line(process, "ready ")
        ready = msgspec.json.decode((data / "ready.json").read_bytes(), type=dict[str, Any])
        headers = {"Authorization": f"Bearer {ready['admin_key']}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            yield Whole(Client(session, ready["url"]), ready)


@asynccontextmanager
async def alone(data: Path, gateways: Mapping[str, Mapping[str, str]] | None = None) -> AsyncIterator[Alone]:
    """Run only the broker and the gateway on the data folder of a stack that has ended, for the block.

    `gateways` are several, each with what its operator chose in the environment.
    """
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(claim(data))
        credentials = load_or_create(folder.credentials, None)
        broker = EmbeddedNats(
            folder=folder.own("nats"),
            pidfile=folder.pidfiles / "nats.pid",
            log=folder.logs / "nats.log",
            config=partial(nats_config, credentials),
            password=credentials.nats_admin,
        )
        stack.push_async_callback(broker.stop, 5.0)
        await broker.start()
        urls: dict[str, str] = {}
        pids: dict[str, int] = {}
        for name, chosen in (gateways or {"gateway": {}}).items():
            listening = stack.enter_context(listen("127.0.0.1", 0))
            urls[name] = local_url(listening)
            program = Program(
                name=name,
                command=(sys.executable, "-P", "-m", "services", "gateway"),
                environment=_passed_on()
                | {
                    "MILLRACE_NATS_URL": broker.url("gateway", credentials.nats["gateway"]),
                    # It keeps no tables; the setting is asked of every service.
                    "MILLRACE_DATABASE_URL": "postgresql:///nowhere",
                    "MILLRACE_KEYS": ",".join(credentials.keys),
                    **UNBOUNDED,
                    "MILLRACE_ADMIN_KEY": credentials.admin_key,
                    "MILLRACE_LISTEN_FD": str(listening.fileno()),
                    "MILLRACE_PUBLIC_URL": urls[name],
                    **chosen,
                },
                directory=folder.own("gateway"),
                log=folder.logs / f"{name}.log",
                pidfile=folder.pidfiles / f"{name}.pid",
                descriptors=(listening.fileno(),),
            )
            gateway = Supervised(program)
            await gateway.start()
            stack.push_async_callback(gateway.stop, 10.0)
            await _healthy(urls[name])
            pids[name] = gateway.state.pid or 0
        yield Alone(urls, broker.url(ADMIN, credentials.nats_admin), pids | {"nats": broker.supervised.state.pid or 0})


class Backing:
    """A running broker and database, and any service whenever it is wanted."""

    def __init__(self, stores: Stores, folder: DataFolder, credentials: Credentials) -> None:
        self._stores = stores
        self._folder = folder
        self._credentials = credentials

    @property
    def admin_url(self) -> str:
        """The broker's address with administrator credentials."""
        return self._stores.nats_url

    def nats_url(self, service: str) -> str:
        """Return the broker's address with a service's credentials."""
        return self._stores.nats_url_of(service)

    def database_url(self, service: str) -> str:
        """Return the database's address with a service's credentials."""
        return self._stores.database_url_of(service)

    @property
    def keyring(self) -> Keyring:
        """The keys of the services."""
        return Keyring(tuple(base64.b64decode(key) for key in self._credentials.keys))

    @property
    def pids(self) -> dict[str, int]:
        """The processes by name."""
        return {"nats": self._stores.nats_pid or 0, "postgres": self._stores.postgres_pid or 0}

    @asynccontextmanager
    async def service(self, name: str, *, replica: str = "", **environment: str) -> AsyncIterator[int]:
        """Run a service for the block, of several a `replica`; yields its process."""
        called = name + replica
        program = Program(
            name=name,
            command=(sys.executable, "-P", "-m", "services", name),
            environment=_passed_on()
            | {
                "MILLRACE_NATS_URL": self._stores.nats_url_of(name),
                "MILLRACE_DATABASE_URL": self._stores.database_url_of(name),
                "MILLRACE_KEYS": ",".join(self._credentials.keys),
                **environment,
            },
            directory=self._folder.own(called),
            log=self._folder.logs / f"{called}.log",
            pidfile=self._folder.pidfiles / f"{called}.pid",
        )
        supervised = Supervised(program)
        await supervised.start()
        try:
            yield supervised.state.pid or 0
        finally:
            await supervised.stop(10.0)


@asynccontextmanager
async def backing(data: Path) -> AsyncIterator[Backing]:
    """Run broker and database on the data folder of a stack that has ended, for the block, to measure one service with."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(claim(data))
        sockets = stack.enter_context(run_folder(folder))
        credentials = load_or_create(folder.credentials, None)
        stores = Stores(folder=folder, sockets=sockets, credentials=credentials, nats=None, postgres=None)
        stack.push_async_callback(stores.stop)
        await stores.start()
        yield Backing(stores, folder, credentials)


@asynccontextmanager
async def echo(nats_url: str) -> AsyncIterator[None]:
    """Run a process of `bench.support.echo` for the block, which answers requests to its subject."""
    async with _process([sys.executable, "-m", "bench.support.echo"], {"BENCH_NATS_URL": nats_url}, 5.0) as process:
        await _line(process, "ready")
        yield


@asynccontextmanager
async def limit(nats_url: str | None = None) -> AsyncIterator[str]:
    """Run a server of `bench.support.limits` for the block; yields its address. With a broker it publishes each body."""
    environment = {} if nats_url is None else {"BENCH_NATS_URL": nats_url}
    async with _process([sys.executable, "-m", "bench.support.limits"], environment, 5.0) as process:
        yield await _line(process, "http://")


async def make_bench_stream(nats_url: str) -> None:
    """Make the stream for bare publishes, configured as ours are."""
    client = await nats.connect(nats_url)
    try:
        await client.jetstream().add_stream(name=STREAM, subjects=[SUBJECT], duplicate_window=600)
    finally:
        await client.close()


async def last_sequence(nats_url: str, stream: str) -> int:
    """Return how many messages a stream has ever taken."""
    client = await nats.connect(nats_url)
    try:
        return (await client.jetstream().stream_info(stream)).state.last_seq
    finally:
        await client.close()


@asynccontextmanager
async def _process(command: list[str], environment: Mapping[str, str], grace: float) -> AsyncIterator[asyncio.subprocess.Process]:
    with tempfile.TemporaryFile(prefix="millrace-bench-") as complaints:
        process = await asyncio.create_subprocess_exec(
            *launcher(None, signal.SIGTERM),
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=complaints,
            env={**_passed_on(), **environment},
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            yield process
        except EOFError as error:
            await process.wait()
            complaints.seek(0)
            raise BenchError(f"{command[2]} ended: {complaints.read().decode()[-2000:]}") from error
        finally:
            if process.returncode is None:
                process.terminate()
                try:
                    async with asyncio.timeout(grace):
                        await process.wait()
                except TimeoutError:
                    process.kill()
                    await process.wait()


async def _line(process: asyncio.subprocess.Process, beginning: str) -> str:
    """Return the first line that begins so. Raises EOFError when the process ends before."""
    assert process.stdout is not None
    async with asyncio.timeout(READY_WITHIN):
        while line := (await process.stdout.readline()).decode():
            if line.startswith(beginning):
                return line.strip()
    raise EOFError


async def _healthy(url: str) -> None:
    # The socket is open already: the answer comes when there is somebody to give it.
    async with (
        asyncio.timeout(GATEWAY_WITHIN),
        aiohttp.ClientSession() as session,
        session.get(url + "/healthz") as response,
    ):
        response.raise_for_status()


def _passed_on() -> dict[str, str]:
    """Pass on what finds programs, and this source tree before an installed one."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return kept | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "sdk")])}
