"""An API that goes away in the middle of what somebody asks of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

PUT = rb"PUT "
CHANGE = rb"(?:PUT|POST|DELETE) (?!\S*(?:dry_run=true|/needs ))"
"""A request that changes something; a dry run and a look do not."""


@asynccontextmanager
async def cut_at(url: str, number: int, what: bytes = PUT) -> AsyncIterator[str]:
    """Pass on what is asked of an API, up to the request of that number whose head fits `what`, whose answer never comes.

    Then nobody listens any more.
    """
    parts, seen, tasks = urlsplit(url), 0, []
    writers: list[asyncio.StreamWriter] = []

    async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        writers.append(writer)
        there, back = await asyncio.open_connection(parts.hostname, parts.port)

        async def answers() -> None:
            while (data := await there.read(65536)) and seen < number:
                writer.write(data)
                await writer.drain()

        async def cut() -> None:
            await answering
            for one in writers:
                one.close()

        answering = asyncio.create_task(answers())
        tasks.append(answering)
        is_last = False
        # The body of the last request may come after its head.
        while (data := await reader.read(65536)) and (seen < number or is_last):
            if re.match(what, data):
                seen += 1
                is_last = seen == number
            back.write(data)
            await back.drain()
            if is_last and server.is_serving():
                server.close()
                tasks.append(asyncio.create_task(cut()))
        back.close()
        # Also that of a connection which came while the others were closed.
        writer.close()

    server = await asyncio.start_server(passed, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
