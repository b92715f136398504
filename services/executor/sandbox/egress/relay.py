"""Relays the bytes of one connection both ways and counts them; reads no faster than the other side takes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Literal

PIECE = 65536
"""Bytes that are read at a time, and that may wait for a slow reader in each direction."""

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Ending = Literal["closed", "idle", "half_open", "reset"]


class Relay:
    """Passes bytes between two connections. `sent` and `received` count the bytes passed on, as the run sees them.

    `idle` bounds the seconds without a byte in either direction; `half_open` does once one side has closed.
    """

    def __init__(self, idle: float, half_open: float) -> None:
        self.sent = 0
        self.received = 0
        self._idle = idle
        self._half_open = half_open
        self._expired: Ending = "idle"
        self._moved: Callable[[], None]

    async def run(self, near: Ends, far: Ends) -> Ending:
        """Pass on until both have ended, one has broken, or nothing moves; returns which. Closes neither."""
        loop = asyncio.get_running_loop()
        patience = asyncio.timeout(self._idle)
        self._moved = lambda: patience.reschedule(loop.time() + self._idle)
        try:
            async with patience, _tasks(self._there(near[0], far[1]), self._back(far[0], near[1])) as both:
                done, others = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                self._idle, self._expired = self._half_open, "half_open"
                self._moved()
                await asyncio.gather(*others)
        except OSError:  # a TimeoutError among them, which a socket may raise too
            return self._expired if patience.expired() else "reset"
        return "closed"

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(PIECE):
            self.sent += len(piece)
            await self._hand_on(piece, writer)
        writer.write_eof()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(PIECE):
            self.received += len(piece)
            await self._hand_on(piece, writer)
        writer.write_eof()

    async def _hand_on(self, piece: bytes, writer: asyncio.StreamWriter) -> None:
        self._moved()
        writer.write(piece)
        await writer.drain()


@asynccontextmanager
async def _tasks(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run coroutines, and let none outlive the block."""
    tasks = [asyncio.create_task(one) for one in coroutines]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
