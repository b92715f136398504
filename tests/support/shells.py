"""Repositories behind a real SSH server, which knows one key."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh

from shared import tasks

_SERVING = """
import os, sys
from dulwich.protocol import ReceivableProtocol
from dulwich.repo import Repo
from dulwich.server import DictBackend, ReceivePackHandler, UploadPackHandler
handler = {"git-upload-pack": UploadPackHandler, "git-receive-pack": ReceivePackHandler}[sys.argv[1]]
def write(data):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
protocol = ReceivableProtocol(lambda size: os.read(0, size), write)
handler(DictBackend({sys.argv[2]: Repo(sys.argv[3])}), [sys.argv[2]], protocol).handle()
"""


class Shell:
    """An SSH server: its address, its public key, and the private key that it admits."""

    def __init__(self, port: int, host_key: str, private_key: str) -> None:
        self.url = f"ssh://127.0.0.1:{port}"
        self.host_key = host_key
        self.private_key = private_key


def new_key() -> tuple[str, str]:
    """Return a new private key and its public one."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    return key.export_private_key().decode(), " ".join(key.export_public_key().decode().split()[:2])


async def _copied(source: asyncssh.SSHReader[bytes], target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while part := await source.read(65536):
            target.write(part)
            await target.drain()
        target.close()


@asynccontextmanager
async def shell(root: Path) -> AsyncIterator[Shell]:
    """Serve the repositories of a folder for the block."""
    host, public_host = new_key()
    mine, public = new_key()

    async def handle(process: asyncssh.SSHServerProcess[bytes]) -> None:
        command, path = shlex.split(process.command or "")
        served = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "ignore", "-c", _SERVING, command, path, str(root / path.strip("/"))),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert served.stdin is not None
        assert served.stdout is not None
        into = asyncio.create_task(_copied(process.stdin, served.stdin))
        while part := await served.stdout.read(65536):
            process.stdout.write(part)
            await process.stdout.drain()
        await tasks.end([into])
        process.exit(await served.wait())

    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[asyncssh.import_private_key(host)],
        authorized_client_keys=asyncssh.import_authorized_keys(public),
        process_factory=handle,
        encoding=None,
    )
    try:
        yield Shell(server.get_port(), public_host, mine)
    finally:
        server.close()
        await server.wait_closed()
