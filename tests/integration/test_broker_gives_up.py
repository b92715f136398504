"""A service whose client has given up on the broker ends, so that it is started afresh: it would never be connected again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.support.river import sandbox_settings
from tests.support.servers import Place
from tests.support.stack import ROOT


@pytest.mark.parametrize("service", ["gateway", "events", "executor", "oauth", "logs"])
async def test_a_service_ends_when_the_broker_has_closed_its_client_for_good(place: Place, data: Path, service: str) -> None:
    real = urlsplit(place.nats_url(service))
    to_clients: list[asyncio.StreamWriter] = []

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while part := await reader.read(65536):
                writer.write(part)
                await writer.drain()
        writer.close()

    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(real.hostname, real.port)
        to_clients.append(writer)
        await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))

    server = await asyncio.start_server(between, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = urlunsplit(real._replace(netloc=f"{real.netloc.rpartition('@')[0]}@127.0.0.1:{port}"))
    settings = {"MILLRACE_NATS_URL": url, "MILLRACE_DATA": str(data), "MILLRACE_LISTEN": "127.0.0.1:0", **sandbox_settings()}
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "services", service],
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | place.environment(service, **settings),
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            while b"service.started" not in await process.stdout.readline():
                pass
        draining = asyncio.create_task(process.stdout.read())
        to_clients[-1].write(b"-ERR 'Maximum Connections Exceeded'\r\n")
        async with asyncio.timeout(60):
            assert await process.wait() == 1
        await draining
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        server.close()
