"""Web servers of tests, on the loopback and a port that the system hands out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web


@asynccontextmanager
async def served(application: web.Application, at: str = "127.0.0.1") -> AsyncIterator[str]:
    """Serve an application for the block; yields its address, such as `http://127.0.0.1:43210`."""
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, at, 0)
        await site.start()
        yield site.name
    finally:
        await runner.cleanup()
