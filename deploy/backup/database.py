"""The database into a file and out of it, by Postgres' own programs."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from deploy.errors import StartError
from deploy.given import connect_database
from deploy.postgres import binaries
from shared.addresses import user_of, writable
from shared.messages.log import SERVICES

PART = 256 * 1024


async def dump(url: str, snapshot: str, write: Callable[[bytes], Any]) -> None:
    """Give the services' schemas, as they are in an exported snapshot, to `write`, part by part. Raises `StartError`."""
    schemas = [f"--schema={service}" for service in SERVICES]
    command = ("pg_dump", "--format=custom", "--compress=1", f"--snapshot={snapshot}", *schemas)
    process = await _started(url, *command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    try:
        # Beside, so that the program is not held up by what it says.
        said = asyncio.create_task(_said(process))
        while part := await process.stdout.read(PART):
            await asyncio.to_thread(write, part)
        await _end(process, command[0], await said)
    finally:
        await _kill(process)


async def undump(url: str, file: Path) -> None:
    """Make the services' schemas of a dump, in place of those that are there; the services' roles must be. Raises `StartError`."""
    jobs = str(min(4, os.cpu_count() or 1))
    command = ("pg_restore", "--exit-on-error", f"--jobs={jobs}")
    connection = await connect_database(url)
    try:
        await connection.execute(f"DROP SCHEMA IF EXISTS {', '.join(SERVICES)} CASCADE")
    finally:
        await connection.close()
    process = await _started(url, *command, str(file), stdout=asyncio.subprocess.DEVNULL)
    try:
        await _end(process, command[0], await _said(process))
    finally:
        await _kill(process)


async def _started(url: str, name: str, *arguments: str, stdout: int) -> asyncio.subprocess.Process:
    user = user_of(url)
    return await asyncio.create_subprocess_exec(
        _program(url, name),
        "--dbname",
        _without_password(url),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.defpath, "LC_ALL": "C", **({"PGPASSWORD": user[1]} if user else {})},
    )


def _program(url: str, name: str) -> str:
    """Return one of Postgres' programs: our own, or the system's where TLS is asked for, which ours are built without."""
    if parse_qs(urlsplit(url).query).get("sslmode", ["prefer"])[-1] in {"disable", "allow", "prefer"}:
        return str(binaries() / name)
    found = shutil.which(name)
    if found is None:
        raise StartError(
            f"The Postgres server is to be reached by TLS, which needs its own {name}: install the client programs of its version "
            "or a newer one, such as the package postgresql-client."
        )
    return found


async def _said(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None  # noqa: S101 - it is a pipe
    return (await process.stderr.read()).decode("utf-8", "replace")


async def _end(process: asyncio.subprocess.Process, name: str, said: str) -> None:
    if await process.wait() != 0:
        raise StartError(f"{name} failed: {said.strip()[-500:] or 'it says nothing'}")


async def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


def _without_password(url: str) -> str:
    """Return an address as the programs are told it, of the server that writes: other users see the arguments of a command."""
    parts = urlsplit(url)
    user = quote(unquote(parts.username or ""), safe="")
    hosts = parts.netloc.rpartition("@")[2]
    asked = urlencode([*parse_qsl(parts.query), *writable(url).items()], quote_via=quote)
    return urlunsplit(parts._replace(netloc=f"{user}@{hosts}" if user else hosts, query=asked))
