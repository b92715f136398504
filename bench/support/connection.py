"""One HTTP connection that sends the same few bytes again and again: as little work per request as Python can do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self, cast
from urllib.parse import urlsplit

import msgspec


class Post(msgspec.Struct, frozen=True, kw_only=True):
    """A request that is sent many times, a POST unless `method` says. `headers` beyond Host and Content-Length."""

    url: str
    headers: dict[str, str]
    body: bytes
    method: str = "POST"

    def encoded(self) -> bytes:
        """Return it as it goes over the wire."""
        parts = urlsplit(self.url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        lines = [f"{self.method} {target} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


class Connection(asyncio.Protocol):
    """A kept connection with one request in flight; `answered(status, body)` is called for each answer."""

    def __init__(self, answered: Callable[[int, bytes], None], lost: Callable[[], None]) -> None:
        self._answered = answered
        self._lost = lost
        self._received = b""
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, url: str, answered: Callable[[int, bytes], None], lost: Callable[[], None]) -> Self:
        """Connect to the host of `url`. Raises OSError."""
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 80
        _, made = await asyncio.get_running_loop().create_connection(lambda: cls(answered, lost), host, port)
        return made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports are no subclasses.
        self._transport = cast("asyncio.Transport", transport)

    def send(self, encoded: bytes) -> None:
        """Send one request; the one before must have been answered."""
        assert self._transport is not None
        self._transport.write(encoded)

    def data_received(self, data: bytes) -> None:
        """Take part of an answer; all of ours say their length."""
        received = self._received + data if self._received else data
        head = received.find(b"\r\n\r\n")
        if head >= 0:
            lower = received[:head].lower()
            at = lower.find(b"content-length:")
            length = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(received) >= head + 4 + length:
                self._received = b""
                self._answered(int(received[9:12]), received[head + 4 :])
                return
        self._received = received

    def connection_lost(self, _error: Exception | None) -> None:
        """Tell the owner."""
        self._lost()

    def close(self) -> None:
        """Close; `lost` is called for this as well."""
        if self._transport is not None:
            self._transport.close()
