"""A whole Millrace of the drill's own, started as an operator starts it and disturbed from outside by process id."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from deploy.files import tail
from deploy.supervise import launcher

# Seconds for the whole to be there at first, and for what was killed to be there again.
START_WITHIN = 150.0
STOPS_WITHIN = 30.0
ASKED_EVERY = 0.05
# Seconds for one look at both stores.
READS_WITHIN = 120.0
ROOT = Path(__file__).resolve().parents[2]


class DrillError(Exception):
    """The drill cannot go on; one sentence says why."""


class Installation:
    """One `up` on one data folder. Process ids come from its ready.json, read anew each time: they change with every restart."""

    def __init__(self, data: Path, process: asyncio.subprocess.Process, said: Path) -> None:
        self._data = data
        self._process = process
        self._said = said

    def ready(self) -> dict[str, Any]:
        """Return what ready.json says now. Raises `DrillError` when the installation has ended."""
        if self._process.returncode is not None:
            raise DrillError(f"the installation ended with {self._process.returncode}: {tail(self._said, 5)}")
        try:
            return msgspec.json.decode((self._data / "ready.json").read_bytes(), type=dict[str, Any])
        except FileNotFoundError as error:
            raise DrillError("the installation has withdrawn its ready.json") from error

    def pid(self, target: str) -> int | None:
        """Return the process of a service or store; None while it is down."""
        ready = self.ready()
        if f"{target}_pid" in ready:
            return ready[f"{target}_pid"]  # type: ignore[no-any-return]
        found: dict[str, int | None] = ready["services"] | ready["stores"]
        return found[target]

    async def running(self, target: str, *, other_than: int | None = None) -> int:
        """Wait until a target runs, as another process than `other_than`; returns its pid. Raises `DrillError` if none comes."""
        try:
            async with asyncio.timeout(START_WITHIN):
                while (pid := self.pid(target)) is None or pid == other_than:
                    await asyncio.sleep(ASKED_EVERY)  # the file is the only announcement
                return pid
        except TimeoutError as error:
            raise DrillError(f"{target} did not come back within {START_WITHIN:.0f} s: {tail(self._said, 5)}") from error

    async def kill(self, target: str) -> int:
        """Kill a target; returns the pid that it had."""
        pid = await self.running(target)
        os.kill(pid, signal.SIGKILL)
        return pid

    @contextlib.asynccontextmanager
    async def paused(self, target: str) -> AsyncIterator[None]:
        """Stop a target for the block; Postgres with its backends, which are processes of their own.

        Its supervisor stands still with it, as on a machine that does: it would end and start again what hangs for so long, and
        the target would never wake up with leases that are others' by then.
        """
        pid = await self.running(target)
        stopped: list[int] = []
        try:
            _signal(self._process.pid, signal.SIGSTOP, stopped)
            _signal(pid, signal.SIGSTOP, stopped)
            if target == "postgres":
                # After their parent, so that no more are made.
                for child in children_of(pid):
                    _signal(child, signal.SIGSTOP, stopped)
            yield
        finally:
            for one in reversed(stopped):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGCONT)

    async def all_ready(self, session: aiohttp.ClientSession) -> None:
        """Wait until the gateway says that it and every other service is ready. Raises `DrillError` when one is not."""
        url = self.ready()["url"]
        said = "nothing"
        try:
            async with asyncio.timeout(START_WITHIN):
                while True:
                    try:
                        async with session.get(f"{url}/readyz", timeout=aiohttp.ClientTimeout(total=5)) as response:
                            said = await response.text()
                            if response.status == 200 and not msgspec.json.decode(said)["degraded"]:
                                return
                    except (aiohttp.ClientError, OSError, TimeoutError):
                        self.ready()
                    await asyncio.sleep(ASKED_EVERY)  # readiness has no way to call back
        except TimeoutError as error:
            raise DrillError(f"not all was ready again within {START_WITHIN:.0f} s; the gateway said {said}") from error

    async def stop(self) -> None:
        """End it as an operator would, and by force when that takes too long."""
        if self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(STOPS_WITHIN):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()


@contextlib.asynccontextmanager
async def installed(place: Path, *, options: tuple[str, ...] = ()) -> AsyncIterator[Installation]:
    """Start an installation in the folder `place` for the block, with `options` of `up`.

    Raises `DrillError` when it does not get ready.
    """
    said = place / "up.log"
    with said.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            # It ends with this process, however that ends.
            *launcher(None, signal.SIGTERM),
            *[sys.executable, "-m", "deploy.local", "--data", str(place / "data"), "--port", "0", "--unsafe", *options],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            start_new_session=True,
            # The drill's runs write their evidence to a file of the machine, which no sandbox would let them.
            env=os.environ | {"MILLRACE_SANDBOX_TIER": "none"},
        )
    installation = Installation(place / "data", process, said)
    try:
        try:
            async with asyncio.timeout(START_WITHIN):
                while not (place / "data" / "ready.json").exists():
                    if process.returncode is not None:
                        raise DrillError(f"the installation did not start: {tail(said, 5)}")
                    await asyncio.sleep(ASKED_EVERY)
        except TimeoutError as error:
            raise DrillError(f"the installation was not ready within {START_WITHIN:.0f} s: {tail(said, 5)}") from error
        yield installation
    finally:
        await installation.stop()


def children_of(pid: int) -> list[int]:
    """Return the processes whose parent is `pid`, so far as /proc shows them."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text("utf-8", "replace").rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def _signal(pid: int, number: signal.Signals, done: list[int]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        done.append(pid)
