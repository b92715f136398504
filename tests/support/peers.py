"""Servers that others wrote, to see that what is spoken with them is what they mean: `oidc-provider`, certified by OpenID."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import aiohttp
import msgspec
import pytest

from tests.support.browser import chromium

OIDC = Path(__file__).parents[1] / "peers" / "oidc"
OLDEST_NODE = 20
# Set to `required` where none of these tests may be skipped.
PEERS = "MILLRACE_TEST_PEERS"


class Peer:
    """A running server; `issuer` is its address. Its clients register themselves."""

    def __init__(self, issuer: str, session: aiohttp.ClientSession) -> None:
        self.issuer = issuer
        self._session = session

    async def register(self, **metadata: Any) -> dict[str, Any]:
        """Return a client, registered with this metadata (RFC 7591)."""
        usual = {"response_types": [], "redirect_uris": []}
        async with self._session.post(f"{self.issuer}/reg", json=usual | metadata) as response:
            document: dict[str, Any] = await response.json()
            assert response.status == 201, document
            return document

    async def tickets(self, token: str) -> dict[str, Any]:
        """Ask its API with a token; return whose that is."""
        async with self._session.get(f"{self.issuer}/api/tickets", headers={"Authorization": f"Bearer {token}"}) as response:
            assert response.status == 200
            found: dict[str, Any] = await response.json()
            return found

    async def ahead(self, seconds: int) -> None:
        """Put its clock so far ahead of ours."""
        await self._do(f"/clock/{seconds}")

    async def group(self, login: str, *groups: str) -> None:
        """Have a person in these groups, and in no other."""
        await self._do(f"/groups/{login}/{','.join(groups)}")

    async def hold_next(self) -> None:
        """Hold the next token request up, which is counted as `held`."""
        await self._do("/hold")

    async def release(self) -> None:
        """Let the request that is held up be answered."""
        await self._do("/release")

    async def _do(self, path: str) -> None:
        async with self._session.get(self.issuer + path) as response:
            assert response.status == 200

    async def post(self, path: str, client: dict[str, Any], **parameters: str) -> tuple[int, dict[str, Any]]:
        """Send a form as a client; return the status and the document."""
        headers = {"Authorization": aiohttp.encode_basic_auth(client["client_id"], client["client_secret"])}
        async with self._session.post(self.issuer + path, data=parameters, headers=headers) as response:
            body = await response.read()
            return response.status, msgspec.json.decode(body) if body else {}

    async def is_active(self, client: dict[str, Any], token: str) -> bool:
        """Return whether a token is one that counts (RFC 7662)."""
        status, found = await self.post("/token/introspection", client, token=token)
        assert status == 200, found
        return bool(found["active"])

    async def revoke(self, client: dict[str, Any], token: str) -> None:
        """Have a token revoked, and nothing else of its grant where it is an access token."""
        status, found = await self.post("/token/revocation", client, token=token)
        assert status == 200, found

    async def seen(self) -> dict[str, Any]:
        """Return what it granted, by grant type; its refusals: grant type, code and reason of each; how many requests were held."""
        async with self._session.get(f"{self.issuer}/seen") as response:
            found: dict[str, Any] = await response.json()
            return found


@asynccontextmanager
async def oidc_peer() -> AsyncIterator[Peer]:
    """Run the server for the block. Skips the test where it cannot be run."""
    node = shutil.which("node") or without("Node.js (`node`) is not installed")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.lstrip("v").partition(".")[0]) < OLDEST_NODE:
        without(f"Node.js is {version}, and {OLDEST_NODE} is needed")
    await asyncio.to_thread(install, OIDC)
    process = await asyncio.create_subprocess_exec(
        *[node, "server.mjs"], cwd=OIDC, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            issuer = (await process.stdout.readline()).decode().strip()
            assert issuer, "the server did not start"
        async with aiohttp.ClientSession() as session:
            yield Peer(issuer, session)
    finally:
        # It ends with its input, also where this process is killed.
        process.stdin.close()
        await process.wait()


def browser_program() -> str:
    """Return the path of the browser. Skips the test where there is none."""
    return chromium() or without("the browser `chromium` is not installed")


def without(reason: str) -> NoReturn:
    """Skip the test for that reason, or fail it where it is required."""
    if os.environ.get(PEERS) == "required":
        pytest.fail(f"{PEERS} is `required`, and {reason}")
    pytest.skip(reason)


def install(folder: Path) -> None:
    """Have npm install what the lock file in a folder names, once for all workers, and again when the file has changed.

    Skips the test where it cannot.
    """
    lock = folder / "package-lock.json"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    installed = folder / "node_modules" / ".installed"
    with lock.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if installed.is_file() and installed.read_text() == wanted:
            return
        npm = shutil.which("npm") or without("`npm` is not installed")
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-timeout=20000"]
        try:
            subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=True)
        except subprocess.TimeoutExpired:
            without(f"npm did not install `{folder.name}` in time")
        except subprocess.CalledProcessError as error:
            without(f"npm could not install `{folder.name}`: {error.stderr[-500:]}")
        installed.write_text(wanted)
