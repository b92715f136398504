"""Reaches a remote by SSH. Only ever in a child of the sandbox, beside `inside`, which asks for it.

The host's key is the pinned one or there is no connection; nothing is read of anybody's configuration, and no agent is asked. The
connection is made by way of the child's proxy, like every other.
"""

import asyncio
import base64
import os
import socket
import threading
from collections.abc import Coroutine
from typing import Any
from urllib.parse import urlsplit

import asyncssh
from dulwich.client import SSHGitClient, SSHVendor


class ShellError(Exception):
    """The remote cannot be reached so; a code for the supervisor, and words."""

    def __init__(self, problem: str, words: str) -> None:
        self.problem = problem
        super().__init__(words)


def client_of(job: dict[str, Any]) -> tuple[SSHGitClient, str]:
    """Answer a client for the remote of a job, and the path there."""
    os.environ.setdefault("LOGNAME", "git")  # who runs this is looked for, and is nobody
    parts = urlsplit(job["url"])
    vendor: Any = _Vendor(job)
    return SSHGitClient(parts.hostname or "", port=parts.port or 22, username=job["username"], vendor=vendor), parts.path


class _Vendor(SSHVendor):
    """Runs commands on the remote, each over a connection of its own."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job

    def run_command(
        self,
        host: str,
        command: bytes,
        username: str | None = None,
        port: int | None = None,
        password: str | None = None,
        key_filename: str | None = None,
        ssh_command: str | None = None,
        protocol_version: int | None = None,
    ) -> Any:
        """Answer a channel to a command that runs there. Of the rest nothing is used: the job has all of it."""
        del password, key_filename, ssh_command, protocol_version
        return _Channel(self._job, host, port or 22, username or "git", command.decode())


class _Channel:
    """A command on the remote, as dulwich reads and writes it; it goes on in a thread of its own."""

    stderr = None

    def __init__(self, job: dict[str, Any], host: str, port: int, user: str, command: str) -> None:
        self._patience = float(job["patience"])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._connection, self._process = self._done(self._started(job, host, port, user, command))

    async def _started(self, job: dict[str, Any], host: str, port: int, user: str, command: str) -> tuple[Any, Any]:
        try:
            key = asyncssh.import_private_key(job["password"] or "")
            pinned = asyncssh.import_public_key(job["host_key"] or "")
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, ValueError) as error:
            raise ShellError("denied", f"the key cannot be used: {type(error).__name__}") from error
        sock = _tunnel(host, port, self._patience)
        try:
            connection = await asyncssh.connect(
                host,
                port,
                sock=sock,
                username=user,
                client_keys=[key],
                known_hosts=([pinned], [], []),
                config=None,
                agent_path=None,
                preferred_auth="publickey",
                connect_timeout=self._patience,
                login_timeout=self._patience,
            )
        except asyncssh.HostKeyNotVerifiable as error:
            raise ShellError("denied", "the host shows another key than the one that is pinned") from error
        except asyncssh.PermissionDenied as error:
            raise ShellError("denied", "the remote refuses this key") from error
        except (asyncssh.Error, OSError) as error:
            raise ShellError("unreachable", f"no SSH connection: {error}") from error
        return connection, await connection.create_process(command, encoding=None, stderr=asyncssh.DEVNULL)

    def read(self, size: int) -> bytes:
        """Answer so many bytes, fewer at the end."""
        return bytes(self._done(self._read(size)))

    async def _read(self, size: int) -> bytes:
        try:
            return bytes(await self._process.stdout.readexactly(size))
        except asyncio.IncompleteReadError as error:
            return error.partial

    def write(self, data: bytes) -> int:
        """Send bytes; answer how many."""
        self._done(self._write(bytes(data)))
        return len(data)

    async def _write(self, data: bytes) -> None:
        self._process.stdin.write(data)
        await self._process.stdin.drain()

    def can_read(self) -> bool:
        """Answer False: nothing is read ahead."""
        return False

    def close(self) -> None:
        """End the connection."""
        self._loop.call_soon_threadsafe(self._connection.close)

    def _done(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, 3 * self._patience), self._loop).result()
        except TimeoutError as error:
            raise ShellError("unreachable", "the remote is silent") from error


def _tunnel(host: str, port: int, patience: float) -> socket.socket:
    """Answer a connection to the remote, through the proxy where there is one."""
    proxy = urlsplit(os.environ.get("http_proxy", ""))
    if proxy.hostname is None:
        return socket.create_connection((host, port), timeout=patience)
    sock = socket.create_connection((proxy.hostname, proxy.port or 80), timeout=patience)
    named = f"[{host}]" if ":" in host else host
    lines = [f"CONNECT {named}:{port} HTTP/1.1", f"Host: {named}:{port}"]
    if proxy.username is not None:
        token = base64.b64encode(f"{proxy.username}:{proxy.password or ''}".encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {token}")
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    head = b""
    while b"\r\n\r\n" not in head and len(head) < 65536:
        # One at a time: what follows the head is the remote's.
        part = sock.recv(1)
        if not part:
            break
        head += part
    status, _, rest = head.partition(b"\r\n")
    if b" 200 " not in status + b" ":
        told = next((line for line in rest.split(b"\r\n") if line.lower().startswith(b"proxy-status:")), b"")
        words = told.partition(b"details=")[2].strip(b'"').decode("ascii", "replace")
        raise ShellError("egress" if b" 403 " in status else "unreachable", words or "the proxy leads nowhere")
    sock.settimeout(None)
    return sock
