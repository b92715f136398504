"""Searches, exports and tails of one organization leave room for another's: by the order of what happens, not by time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import pytest

from services.gateway import watching
from services.gateway.config import MAX_CONNECTIONS
from services.logs import scope
from services.logs.scope import EACH, PLACES, ArchiveDeps, looking
from shared.db import open_engine
from shared.envelope import new_id, utc_now
from shared.errors import Unavailable
from shared.messages import RunRequested
from tests.integration.test_gateway import Client
from tests.integration.test_logs_api import Archived, archived
from tests.support.inside import eventually
from tests.support.servers import Place

# More than the sockets between hold, of an export that nobody reads.
LARGE = [
    RunRequested(run=new_id(), workflow="w", version="v", input={"n": number, "text": "x" * 20_000}, requested_by="t", timeout=60.0)
    for number in range(500)
]
EXPORTS = 40


@asynccontextmanager
async def unread(client: Client, path: str) -> AsyncIterator[asyncio.StreamReader]:
    """Ask for something, read the head of its answer, and take no more of it."""
    url = urlsplit(client.url)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (url.hostname, url.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: here\r\nAuthorization: {client.key['Authorization']}\r\n\r\n".encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        yield reader
    finally:
        writer.transport.abort()


async def test_searches_of_one_organization_never_take_the_last_place(place: Place) -> None:
    engine = open_engine(place.database_url("logs"), service="logs", pool_size=PLACES)
    deps = ArchiveDeps(engine, utc_now)
    async with AsyncExitStack() as busy:
        for _ in range(EACH):
            await busy.enter_async_context(looking(deps, "acme"))
        fifth = asyncio.create_task(busy.enter_async_context(looking(deps, "acme")))
        async with looking(deps, "globex") as connection:
            assert await connection.fetch("SELECT 1")
            assert not fifth.done()
        fifth.cancel()
        await asyncio.wait([fifth])
    async with looking(deps, "acme"):
        pass
    await engine.dispose()


async def test_a_search_whose_turn_does_not_come_is_unavailable(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scope, "WAITS", 0.0)
    engine = open_engine(place.database_url("logs"), service="logs", pool_size=PLACES)
    deps = ArchiveDeps(engine, utc_now)
    async with AsyncExitStack() as busy:
        for _ in range(EACH):
            await busy.enter_async_context(looking(deps, "acme"))
        with pytest.raises(Unavailable, match="acme has too many searches under way"):
            async with looking(deps, "acme"):
                pass
    await engine.dispose()


async def test_exports_that_nobody_reads_hold_no_connection_and_no_search_of_another(place: Place) -> None:
    async with archived(place) as it:
        await it.add(*LARGE, org="acme")
        await it.add(LARGE[0], org="globex")
        async with AsyncExitStack() as exports:
            readers = [await exports.enter_async_context(unread(it.client, "/api/v1/logs/export?org=acme")) for _ in range(EXPORTS)]
            assert await it.count("/api/v1/logs", org="globex") == 1
            await eventually(lambda: is_idle(it))
            # They have not ended: there is more of each, and what the sockets held was not all.
            assert not any(one.at_eof() for one in readers)
            assert await it.count("/api/v1/logs", org="acme", limit=1) == 1


async def is_idle(it: Archived) -> bool:
    """Return whether no search holds a connection."""
    held = await it.connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'millrace-logs' AND pid <> pg_backend_pid()"
        " AND xact_start IS NOT NULL AND query LIKE '%message%'"
    )
    return held == 0


async def test_streams_of_one_organization_leave_room_for_anothers(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "OF_CONNECTIONS", MAX_CONNECTIONS // 4)
    async with archived(place) as it, AsyncExitStack() as tails:
        for _ in range(2):
            await tails.enter_async_context(unread(it.client, "/api/v1/logs/tail?org=acme"))
        refused = await it.client("GET", "/api/v1/logs/tail?org=acme")
        assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
        async with unread(it.client, "/api/v1/logs/tail?org=globex"):
            pass
