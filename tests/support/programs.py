"""Other programs, as an operator runs them: what they print and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.servers import Place
from tests.support.stack import ROOT

# Far above what any of them takes that is not meant to go on.
BOUND = 120.0

# The exit code of a program that cannot do here what it is for, as Automake has it; its last line says why.
SKIPPED = 77


async def program(*command: str, cwd: Path = ROOT, environment: Mapping[str, str] | None = None) -> asyncio.subprocess.Process:
    """Start a program that is given nothing; all that it prints comes by its standard output."""
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=cwd,
        env=environment,
    )


async def ended(process: asyncio.subprocess.Process, within: float = BOUND) -> tuple[int, str]:
    """Return a program's exit code and all that it printed, when it has ended. One that takes longer is killed: TimeoutError."""
    try:
        async with asyncio.timeout(within):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def output(
    *command: str, cwd: Path = ROOT, environment: Mapping[str, str] | None = None, within: float = BOUND
) -> tuple[int, str]:
    """Run a program to its end, as `ended` bounds it; return its exit code and all that it printed."""
    return await ended(await program(*command, cwd=cwd, environment=environment), within)


@asynccontextmanager
async def module(name: str, *arguments: str, **pipes: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a module of the tests as a process of its own for the block; it is killed at the end if it still goes on."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", name, *arguments, cwd=ROOT, **pipes)  # type: ignore[arg-type]
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def started_service(place: Place, service: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a service as a process of its own, which has started; it may be killed."""
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "services", service],
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | place.environment(service),
    )
    assert process.stdout is not None
    draining: asyncio.Task[bytes] | None = None
    try:
        async with asyncio.timeout(60):
            while b"service.started" not in await process.stdout.readline():
                assert process.returncode is None
        draining = asyncio.create_task(process.stdout.read())
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if draining is not None:
            await draining
