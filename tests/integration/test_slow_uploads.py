"""A thousand slow uploads at once: the gateway's memory stays bounded, seen from outside, and others are served."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from services.gateway.memory_budget import MIB
from tests.integration.test_answers import process
from tests.integration.test_gateway import BODY, gateway, signed, source
from tests.support.servers import Place

UPLOADS = 1000
# Of each upload all but its last byte is sent: a gibibyte in all, had anybody room for it.
LENGTH = MIB + 1
# A source has a quarter of 200 MiB, and the process keeps some of what it let go; of a connection the system hands over up to
# 256 KiB at once, which wait to be read or refused.
MOST = 200 * MIB + UPLOADS * 256 * 1024
FORGED = signed(b"something else")


def highest(pid: int) -> int:
    """Return the most memory that a process has ever held, in bytes."""
    (line,) = (one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


async def test_the_memory_of_a_thousand_slow_uploads_is_bounded_and_others_are_served(place: Place) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * UPLOADS)), hard))
    answers: list[int] = []
    enough = asyncio.Event()
    async with gateway(place) as other, source(place, other) as (id_, _), process(place) as (started, url):
        before = highest(started.pid)

        async def upload() -> None:
            """Send an upload that never ends, and note how it is answered."""
            parts = urlsplit(url)
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                lines = [f"{name}: {value}" for name, value in (FORGED | {"Content-Length": str(LENGTH)}).items()]
                writer.write("\r\n".join([f"POST /hooks/{id_} HTTP/1.1", "Host: h", *lines, "", ""]).encode())
                with contextlib.suppress(ConnectionError):
                    for _ in range(16):
                        writer.write(bytes(MIB // 16))
                        await writer.drain()
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    answers.append(int((await reader.readuntil(b"\r\n")).split()[1]))
                if len(answers) > UPLOADS * 9 / 10:
                    enough.set()
                await asyncio.Event().wait()
            finally:
                writer.close()

        uploads = [asyncio.create_task(upload()) for _ in range(UPLOADS)]
        try:
            async with asyncio.timeout(120):
                await enough.wait()
            async with aiohttp.ClientSession() as session:
                good = {"data": BODY, "headers": signed(BODY)}
                async with session.post(f"{url}/hooks/{id_}", **good) as response:
                    assert response.status == 202
            grown = highest(started.pid) - before
        finally:
            for task in uploads:
                task.cancel()
            await asyncio.gather(*uploads, return_exceptions=True)
    # Those that fit are waited for; the others are told so at once.
    assert set(answers) <= {429, 408}
    assert answers.count(429) > UPLOADS / 2
    assert grown < MOST
