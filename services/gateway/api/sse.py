"""Server-sent events (WHATWG HTML, section 9.2) to one client: heartbeats, and an end to clients that take nothing."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec
from aiohttp import web

# Seconds: proxies in between close connections that are silent for a minute or so.
HEARTBEAT = 15.0
# Seconds within which a client has to take the bytes sent to it.
SLOW = 30.0
# Seconds that the last event has to reach a client that is cut off.
LINGER = 5.0
# Seconds between looks at whether the client is still there.
THERE = 1.0
HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class EventClient:
    """One client. Every method raises ConnectionError when it is gone, or is cut off because it takes no bytes."""

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request = request
        self._response = response
        self._said_at = 0.0

    async def send(self, kind: str, id_: str, data: Any) -> None:
        """Send an event."""
        await self.write(event(kind, id_, data))

    async def write(self, data: bytes) -> None:
        """Send events; returns when the connection has room for more."""
        try:
            async with asyncio.timeout(SLOW):
                await self._response.write(data)
        except TimeoutError as error:
            await self._cut()
            raise ConnectionResetError("the client is too slow") from error
        self._said_at = asyncio.get_running_loop().time()

    async def quiet(self, woken: asyncio.Event, seconds: float) -> None:
        """Wait until there may be something new, at most so long, and send a comment now and then to keep the connection."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while not woken.is_set() and loop.time() < until:
            if self._request.transport is None or self._request.transport.is_closing():
                raise ConnectionResetError("the client has gone")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(THERE, until - loop.time()))):
                    await woken.wait()
            if loop.time() - self._said_at >= HEARTBEAT:
                await self.write(b": \n\n")

    async def _cut(self) -> None:
        """Send the reason and close: bytes on their way may still arrive, but are not waited for."""
        problem = {"detail": f"you did not take what was sent within {SLOW:g} s; go on by Last-Event-ID"}
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(0):
                await self._response.write(event("error", "", problem))
        transport = self._request.transport
        if transport is not None:
            transport.close()
            asyncio.get_running_loop().call_later(LINGER, transport.abort)


def event(kind: str, id_: str, data: Any) -> bytes:
    """Return an event as it is sent; without an id the last one stays the client's."""
    place = b"id: %s\n" % id_.encode() if id_ else b""
    return b"%sevent: %s\ndata: %s\n\n" % (place, kind.encode(), msgspec.json.encode(data))
