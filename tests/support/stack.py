"""A whole Millrace started as an operator would start it, for tests that break it from outside."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from deploy import processes

ROOT = Path(__file__).parents[2]
# Twice what `up` allows itself, so that its own message is what a failing test shows.
BOUND = 120.0
ASKED_EVERY = 0.05


class Up:
    """One `up` on one data folder; `ready` is what ready.json said when it came up."""

    def __init__(
        self,
        data: Path,
        *options: str,
        environment: dict[str, str] | None = None,
        around: tuple[str, ...] = (),
        python: Path | None = None,
        root: Path = ROOT,
    ) -> None:
        """Start nothing yet; runs are allowed without a sandbox, since these tests are about processes.

        `around` is a command that is given the command of `up`, as `tests.support.forbid`; `python` runs it instead of ours;
        `root` is the tree that is run.
        """
        self.python = str(python or sys.executable)
        self.root = root
        self.data = data
        self.around = around
        self.options = options
        self.environment = environment
        self.ready: dict[str, Any] = {}
        self.process: asyncio.subprocess.Process | None = None
        # Read when something fails: a pipe that nobody reads could block.
        self.said = Path(tempfile.mkstemp(prefix="mr-test-up-")[1])

    async def start(self) -> None:
        """Start and wait until it says that it is ready."""
        await self.launch()
        await self.until(self._is_ready)

    async def launch(self) -> None:
        """Start without waiting."""
        with self.said.open("wb") as said:
            self.process = await asyncio.create_subprocess_exec(
                *[
                    *self.around,
                    self.python,
                    "-m",
                    "deploy.local",
                    "--data",
                    str(self.data),
                    "--port",
                    "0",
                    "--unsafe",
                    *self.options,
                ],
                stdout=said,
                stderr=said,
                stdin=asyncio.subprocess.DEVNULL,
                env=self.environment,
                cwd=self.root,
                start_new_session=True,
            )

    def _is_ready(self) -> bool:
        """Say whether ready.json is of this start; one that was killed leaves its own behind."""
        assert self.process is not None
        try:
            return bool(self.read()["pid"] == self.process.pid)
        except FileNotFoundError:
            return False

    def read(self) -> dict[str, Any]:
        """Read ready.json again: pids change when a process is started again."""
        self.ready = msgspec.json.decode((self.data / "ready.json").read_bytes(), type=dict[str, Any])
        return self.ready

    async def ended(self, within: float = BOUND) -> tuple[int, str]:
        """Wait for the end; return its exit code and all that it printed."""
        assert self.process is not None
        async with asyncio.timeout(within):
            code = await self.process.wait()
        return code, self.said.read_text()

    async def stop(self) -> tuple[int, str]:
        """End it as an operator would."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def clear(self) -> None:
        """Leave nothing behind, however the test ended."""
        if self.process is not None:
            await self.stop()
        self.said.unlink(missing_ok=True)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition; fails at once, with all that was printed, when `up` ends before."""
        assert self.process is not None
        async with asyncio.timeout(BOUND):
            while not condition():
                assert self.process.returncode is None, self.said.read_text()
                await asyncio.sleep(ASKED_EVERY)

    async def until_ready_again(self) -> dict[str, Any]:
        """Wait until the gateway and every service say that they are ready; the gateway's port must not refuse meanwhile."""
        sockets = Path((self.data / "run" / "sockets").read_text())
        async with asyncio.timeout(BOUND):
            async with aiohttp.ClientSession() as session:
                while True:
                    async with session.get(self.ready["url"] + "/readyz") as response:
                        if response.ok:
                            break
                    await asyncio.sleep(ASKED_EVERY)
            for name in self.ready["services"]:
                while not await _is_ready(sockets / "health" / f"{name}.sock"):
                    await asyncio.sleep(ASKED_EVERY)
        return self.read()

    def family(self) -> list[processes.Identity]:
        """Return every process that `up` started, and theirs."""
        assert self.process is not None
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(stat.parent.name)] = int(stat.read_text("utf-8", "replace").rpartition(")")[2].split()[1])
            except OSError:
                continue
        known = {self.process.pid}
        while more := {pid for pid, parent in parents.items() if parent in known} - known:
            known |= more
        members = (processes.identify(pid, processes.command_of(pid)) for pid in known - {os.getpid()})
        return [member for member in members if member is not None]


@asynccontextmanager
async def running_up(
    data: Path,
    *options: str,
    environment: dict[str, str] | None = None,
    around: tuple[str, ...] = (),
    python: Path | None = None,
    root: Path = ROOT,
) -> AsyncIterator[Up]:
    """Run one `up` on a data folder for the block, ready; nothing of it runs afterwards, however the block ended."""
    up = Up(data, *options, environment=environment, around=around, python=python, root=root)
    try:
        await up.start()
        yield up
    finally:
        await up.clear()


async def _is_ready(socket: Path) -> bool:
    try:
        connector = aiohttp.UnixConnector(str(socket))
        async with aiohttp.ClientSession(connector=connector) as session, session.get("http://service/readyz") as response:
            return response.ok
    except (aiohttp.ClientError, OSError):
        return False
