"""How fast values may come: as fast as the stack takes them, so that who is late is held up and does not just stand in a queue."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from nats.aio.client import Client as Nats

from shared.errors import Unavailable
from shared.pull import StreamError, api_request
from shared.streams import WORK

# Messages that may wait for one consumer.
MOST = 20
EVERY = 0.1


class Pace:
    """Holds everybody up while a consumer has too much before it."""

    def __init__(self, admin: Nats) -> None:
        self._admin = admin
        self._open = asyncio.Event()
        self._open.set()

    async def turn(self) -> None:
        """Wait until there is room for more."""
        await self._open.wait()

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Look at the consumers for the block."""
        task = asyncio.create_task(self._look())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _look(self) -> None:
        while True:
            waiting = await asyncio.gather(*(self._waiting(work.stream, work.name) for work in WORK))
            if max(waiting) > MOST:
                self._open.clear()
            else:
                self._open.set()
            await asyncio.sleep(EVERY)  # consumers do not call back

    async def _waiting(self, stream: str, consumer: str) -> int:
        try:
            info = await api_request(self._admin, f"$JS.API.CONSUMER.INFO.{stream}.{consumer}", None)
        except (StreamError, Unavailable):
            return 0
        return int(info["num_pending"])
