"""The `millrace` command as a person at a terminal uses it, against a stack that runs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

# Far above what any command takes that is not meant to go on.
BOUND = 180.0


class Command:
    """Calls the command from the folder `place`, where it finds the stack by itself."""

    def __init__(self, place: Path) -> None:
        self.place = place

    async def __call__(self, *arguments: str, code: int = 0, given: str = "", **environment: str) -> str:
        """Return what it printed; AssertionError, with all that it said, unless it exits with `code`."""
        return (await self.both(*arguments, code=code, given=given, **environment))[0]

    async def both(self, *arguments: str, code: int = 0, given: str = "", **environment: str) -> tuple[str, str]:
        """Return standard output and standard error."""
        async with self.started(*arguments, **environment) as process, asyncio.timeout(BOUND):
            out, error = await process.communicate(given.encode())
        assert process.returncode == code, (arguments, process.returncode, out.decode(), error.decode())
        return out.decode(), error.decode()

    async def json(self, *arguments: str, code: int = 0, **environment: str) -> Any:
        """Return the document that it printed."""
        out, _ = await self.both(*arguments, "--output", "json", code=code, **environment)
        return json.loads(out)

    @asynccontextmanager
    async def started(self, *arguments: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run it for the block; what still runs then is killed."""
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "millrace.cli", *arguments],
            cwd=self.place,
            env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(self.place), **environment},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # Deafness to interrupts is inherited: a shell's background jobs have it, and so would this.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def until_said(stream: asyncio.StreamReader | None, *words: str) -> str:
    """Read lines until one holds all these words, and return it."""
    assert stream is not None
    heard = []
    async with asyncio.timeout(BOUND):
        while line := (await stream.readline()).decode():
            heard.append(line)
            if all(word in line for word in words):
                return line
    raise AssertionError(f"it ended without {words}: {heard}")
