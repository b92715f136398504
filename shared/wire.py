"""One connection to the broker: bytes in, frames of the NATS client protocol out (docs.nats.io, "Client Protocol").

A transport for nats-py's client that hands frames on as they come from the socket, where its own puts a stream reader and a task in
between.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import ParseResult

import nats.errors
from nats.aio.transport import Transport

_CRLF = b"\r\n"
_CONTROLS = (b"PING", b"PONG", b"+OK", b"-ERR", b"INFO")
# Time for what is left in the buffer to leave when a connection is closed; a peer that does not read would hold it for ever.
CLOSED_WITHIN = 2.0


class Receiver(Protocol):
    """Takes what a connection brings, in order, without waiting."""

    def message(self, sid: int, subject: bytes, reply: bytes, data: bytes, head: bytes) -> None:
        """Take a message for the subscription `sid`; `reply` and `head`, its raw headers, may be empty."""

    def control(self, line: bytes) -> None:
        """Take any other line, without its end: `PING`, `PONG`, `+OK`, `-ERR '…'` or `INFO {…}`."""

    def lost(self, error: Exception) -> None:
        """Take notice that nothing more will come."""


class Wire(Transport, asyncio.Protocol):
    """A connection over TCP, or TLS. Lines are read one by one until `deliver`, then frames go to its receiver."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._receiver: Receiver | None = None
        # What came before `deliver`, then the beginning of a frame whose rest is missing, and the size at which it may be whole.
        self._partial = bytearray()
        self._wanted = 0
        self._is_over = False
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._closed = asyncio.Event()
        self._error: Exception | None = None

    # -- opening and closing --------------------------------------------------------------------------------------

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: float) -> None:  # noqa: ARG002
        """Open the connection. Raises OSError, TimeoutError."""
        async with asyncio.timeout(connect_timeout):
            await asyncio.get_running_loop().create_connection(lambda: self, uri.hostname or "", uri.port or 0)

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,  # noqa: ARG002
        connect_timeout: float,
    ) -> None:
        """Go on in TLS. Raises OSError, TimeoutError."""
        name = uri if isinstance(uri, str) else uri.hostname
        if self._transport is None:
            raise ConnectionResetError("there is no connection to go on with")
        async with asyncio.timeout(connect_timeout):
            self._transport = await asyncio.get_running_loop().start_tls(self._transport, self, ssl_context, server_hostname=name)

    def close(self) -> None:
        """Begin to close, with what was written still to leave."""
        if self._transport is not None:
            self._transport.close()

    async def wait_closed(self) -> None:
        """Wait until it is closed; cut it when that takes too long."""
        if self._transport is None:
            return
        try:
            async with asyncio.timeout(CLOSED_WITHIN):
                await self._closed.wait()
        except TimeoutError:
            self._transport.abort()

    def at_eof(self) -> bool:
        """Return whether nothing more will come."""
        return self._closed.is_set()

    @property
    def error(self) -> Exception | None:
        """Why it has ended; None before that."""
        return self._error

    def __bool__(self) -> bool:
        return True

    # -- writing --------------------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Return whether the peer is behind: what is written now only makes the buffer larger."""
        return not self._writable.is_set()

    @property
    def is_closing(self) -> bool:
        """Return whether nothing is sent any more."""
        return self._transport is None or self._transport.is_closing()

    def write(self, payload: bytes) -> None:
        """Send bytes, or keep them until the peer takes them; after the end they are dropped, as `drain` tells."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(payload)

    def writelines(self, payload: Sequence[bytes]) -> None:
        """Send several pieces as `write` does."""
        self.write(b"".join(payload))

    async def drain(self) -> None:
        """Wait until the peer has taken enough. Raises ConnectionResetError when it never will."""
        await self._writable.wait()
        if self.is_closing:
            raise ConnectionResetError("the connection to the broker is closed")

    # -- reading --------------------------------------------------------------------------------------------------

    async def readline(self) -> bytes:
        """Return the next line with its end, or less at the end of the connection."""
        while (end := self._partial.find(b"\n") + 1) == 0 and not self._closed.is_set():
            self._news.clear()
            await self._news.wait()
        line = bytes(self._partial[: end or None])
        del self._partial[: end or None]
        return line

    async def read(self, buffer_size: int) -> bytes:
        """Return what came before `deliver`; empty at the end of the connection."""
        while not self._partial and not self._closed.is_set():
            self._news.clear()
            await self._news.wait()
        part = bytes(self._partial[:buffer_size])
        del self._partial[:buffer_size]
        return part

    def deliver(self, receiver: Receiver) -> None:
        """Hand to `receiver` whatever came since the last line and will come."""
        self._receiver = receiver
        early = bytes(self._partial)
        self._partial.clear()
        self.data_received(early)
        if self._error is not None:
            receiver.lost(self._error)

    def stop(self) -> None:
        """Hand on nothing more."""
        self._receiver = None
        self._is_over = True
        self._partial.clear()

    def _frames(self, data: bytes, receiver: Receiver) -> int:
        """Hand every whole frame in `data` on; returns where the first one begins that is not whole, and notes its size."""
        at, size = 0, len(data)
        self._wanted = 0
        while at < size:
            end = data.find(_CRLF, at)
            if end < 0:
                break
            has_head = data.startswith(b"HMSG ", at)
            if not has_head and not data.startswith(b"MSG ", at):
                if not data.startswith(_CONTROLS, at):
                    raise ValueError(data[at:end])
                receiver.control(data[at:end])
                at = end + 2
                continue
            # MSG subject sid [reply] size, or HMSG subject sid [reply] head's size, size of both
            fields = data[at:end].split()
            start = end + 2
            split = start + int(fields[-2]) if has_head else start
            stop = start + int(fields[-1])
            has_reply = len(fields) - 4 - has_head
            if not (0 <= has_reply <= 1 and start <= split <= stop):
                raise ValueError(data[at:end])
            if stop + 2 > size:
                self._wanted = stop + 2 - at
                break
            reply = fields[3] if has_reply else b""
            receiver.message(int(fields[2]), fields[1], reply, data[split:stop], data[start:split])
            at = stop + 2
        return at

    # -- what the event loop calls --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport  # type: ignore[assignment]
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        receiver = self._receiver
        if self._is_over:
            return
        if receiver is None:
            self._partial += data
            self._news.set()
            return
        if self._partial:
            self._partial += data
            if len(self._partial) < self._wanted:
                return
            data = bytes(self._partial)
            self._partial.clear()
        try:
            at = self._frames(data, receiver)
        except (ValueError, IndexError):
            # No operation, a number that is none, a field too few: from here on nobody knows where a frame begins.
            self.stop()
            receiver.lost(nats.errors.ProtocolError())
            return
        if at < len(data):
            self._partial += data[at:]

    def pause_writing(self) -> None:
        """Note that the peer is behind."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Note that it has caught up."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._error = exc or nats.errors.UnexpectedEOF()
        self._closed.set()
        self._news.set()
        self._writable.set()
        if self._receiver is not None:
            self._receiver.lost(self._error)
