"""Two of a service: the installation's own, and one more that the drill starts with the same rights and a folder of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import aiohttp

from deploy.accounts import SANDBOX_UID
from deploy.credentials import load_or_create
from deploy.files import tail
from deploy.supervise import launcher
from shared.messages.shards import VARIABLE
from tests.chaos.installation import ASKED_EVERY, ROOT, STOPS_WITHIN, DrillError, Installation

STARTS_WITHIN = 120.0


class Second:
    """The second one of a service: killed like the first one, and started again by `start`."""

    def __init__(self, service: str, installation: Installation, place: Path, sockets: Path) -> None:
        """Start nothing yet; `place` is for its files, `sockets` a folder with a short path."""
        self.service = service
        self._installation = installation
        self._place = place
        self._data = place / "data"
        self._health = sockets / "second.sock"
        self._said = place / "second.log"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it; returns at once."""
        second = self._place / "second"
        second.mkdir(exist_ok=True)
        second.chmod(0o711 if os.geteuid() == 0 else 0o700)
        with self._said.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *launcher(None, signal.SIGKILL),
                *[sys.executable, "-P", "-m", "services", self.service],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=self._environment(second),
                start_new_session=True,
            )

    def _environment(self, data: Path) -> dict[str, str]:
        ready = self._installation.ready()
        credentials = load_or_create(self._data / "credentials.json", None)
        names = ("PATH", "HOME", "LANG", "TZ", "MILLRACE_EGRESS_ALLOW", VARIABLE)
        given = {name: os.environ[name] for name in names if name in os.environ}
        return given | {
            "PYTHONPATH": str(ROOT),
            "MILLRACE_NATS_URL": _as(ready["nats_url"], self.service, credentials.nats[self.service]),
            "MILLRACE_DATABASE_URL": _as(ready["database_url"], f"millrace_{self.service}", credentials.postgres[self.service]),
            "MILLRACE_KEYS": ",".join(credentials.keys),
            "MILLRACE_HEALTH_ADDR": f"unix:{self._health}",
            "MILLRACE_DATA": str(data),
            "MILLRACE_UNSAFE": "1",
            "MILLRACE_SANDBOX_TIER": "none",
            **({"MILLRACE_SANDBOX_UID": str(SANDBOX_UID)} if os.geteuid() == 0 else {}),
        }

    @property
    def pid(self) -> int:
        """Return its process. Raises `DrillError` when it ended by itself."""
        if self._process is None or self._process.returncode is not None:
            raise DrillError(f"the second {self.service} has ended: {tail(self._said, 5)}")
        return self._process.pid

    async def kill(self) -> None:
        """Kill it and start it again."""
        os.kill(self.pid, signal.SIGKILL)
        assert self._process is not None
        await self._process.wait()
        await self.start()

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Stop it for the block."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    async def health(self) -> dict[str, Any] | None:
        """Return what its /readyz says; None while it does not answer."""
        return await health(self._health)

    async def ready(self) -> None:
        """Wait until it is ready. Raises `DrillError` when it ends or takes too long."""
        try:
            async with asyncio.timeout(STARTS_WITHIN):
                while not ((found := await self.health()) and found["ready"]):
                    _ = self.pid
                    await asyncio.sleep(ASKED_EVERY)  # readiness has no way to call back
        except TimeoutError as error:
            raise DrillError(
                f"the second {self.service} was not ready within {STARTS_WITHIN:.0f} s: {tail(self._said, 5)}"
            ) from error

    async def stop(self) -> None:
        """End it in order, and by force when that takes too long."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(STOPS_WITHIN):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@contextlib.asynccontextmanager
async def second_of(service: str, installation: Installation, place: Path) -> AsyncIterator[Second]:
    """Run a second one of a service for the block."""
    # A socket's path may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="mr-") as sockets:
        second = Second(service, installation, place, Path(sockets))
        await second.start()
        try:
            await second.ready()
            yield second
        finally:
            await second.stop()


async def health(socket: Path) -> dict[str, Any] | None:
    """Return what a service says of itself at its health socket; None while it does not answer."""
    try:
        connector = aiohttp.UnixConnector(str(socket))
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=5)) as session,
            session.get("http://service/readyz") as response,
        ):
            found: dict[str, Any] = await response.json()
            return found
    except (aiohttp.ClientError, OSError, TimeoutError):
        return None


def _as(url: str, user: str, password: str) -> str:
    """Return an administrator's address with another user's rights."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(user, safe='')}:{quote(password, safe='')}@{host}"))
