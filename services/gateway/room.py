"""Room for bodies that are read whole: a bound on what all requests together hold in memory."""

from __future__ import annotations

import asyncio
from typing import Self

from aiohttp import web

from shared.errors import Malformed, TooLarge, Unavailable

# Eight of the largest webhooks at a time, or thousands of ordinary ones.
CAPACITY = 256 * 1024 * 1024
# Seconds between two parts of a body after which its sender has gone.
IDLE = 20.0


class Room:
    """Counts the bytes that are held."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._free = capacity

    def hold(self) -> Held:
        """Give a count of bytes that is given back at the end of its block."""
        return Held(self)

    def take(self, size: int) -> None:
        """Take `size` bytes. Raises `Unavailable` when they are not there."""
        if size > self._free:
            raise Unavailable("too many large bodies are on their way at once", retry_after=5)
        self._free -= size

    def give_back(self, size: int) -> None:
        """Make room again."""
        self._free += size


class Held:
    """What one request holds."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.size = 0

    def __enter__(self) -> Self:
        """Begin the block."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Give back what was taken."""
        self._room.give_back(self.size)

    async def body(self, request: web.Request, limit: int) -> bytes:
        """Return a request's body, exactly as it was sent, counted while it streams in.

        Raises `TooLarge` over `limit` bytes, also without a length; `Unavailable` where there is no room; `Malformed` when the
        sender stops for too long.
        """
        if request.content_length is not None and request.content_length > limit:
            raise TooLarge(f"the body is larger than {limit} bytes")
        if not request.can_read_body:
            return b""
        content = request.content
        parts: list[bytes] = []
        while True:
            if content.is_eof():
                # All of it has arrived already, as most bodies have: no timer is needed.
                part = await content.readany()
            else:
                part = await self._next(request)
            if not part:
                return parts[0] if len(parts) == 1 else b"".join(parts)
            if self.size + len(part) > limit:
                raise TooLarge(f"the body is larger than {limit} bytes")
            self._room.take(len(part))
            self.size += len(part)
            parts.append(part)

    async def _next(self, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(IDLE):
                return await request.content.readany()
        except TimeoutError as error:
            raise Malformed(f"the body stopped for {IDLE:g} s before its end") from error
