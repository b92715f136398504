"""HTTP/1.1 as bytes: a client that sends what no library would, on connections that are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

Headers = Sequence[tuple[str, str]]


class Answer(NamedTuple):
    """What came back; header names in lower case. `body` of a stream of events is empty."""

    status: int
    headers: dict[str, str]
    body: bytes


class Unanswered(Exception):
    """The connection ended, or nothing came in time."""


class Client:
    """One connection to a server, made anew where it was closed. One request at a time."""

    def __init__(self, url: str, within: float) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._within = within
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, method: str, target: bytes, headers: Headers = (), body: bytes | None = None) -> Answer:
        """Send a request and return the answer. Raises `Unanswered`."""
        lines = [method.encode() + b" " + target + b" HTTP/1.1", b"Host: " + self._host.encode()]
        lines += [name.encode("latin-1") + b": " + value.encode("utf-8", "surrogateescape") for name, value in headers]
        if body is not None:
            lines.append(b"Content-Length: " + str(len(body)).encode())
        message = b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")
        kept = self._streams is not None
        try:
            return await self._once(method, message)
        except Unanswered:
            # The server may have ended a connection that was kept at the very moment that it was used again.
            if not kept:
                raise
            return await self._once(method, message)

    async def _once(self, method: str, message: bytes) -> Answer:
        try:
            async with asyncio.timeout(self._within):
                if self._streams is None:
                    self._streams = await asyncio.open_connection(self._host, self._port)
                reader, writer = self._streams
                writer.write(message)
                answer, closes = await self._answer(method, reader)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            self.close()
            raise Unanswered(f"{type(error).__name__}: {error}") from error
        except BaseException:
            self.close()
            raise
        if closes:
            self.close()
        return answer

    async def _answer(self, method: str, reader: asyncio.StreamReader) -> tuple[Answer, bool]:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *rest = head[:-4].split("\r\n")
            status = int(first.split(" ")[1])
            if status != 100:
                break
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        closes = headers.get("connection", "").lower() == "close" or first.startswith("HTTP/1.0")
        if method == "HEAD" or status in {204, 304}:
            return Answer(status, headers, b""), closes
        if headers.get("content-type", "").startswith("text/event-stream"):
            return Answer(status, headers, b""), True
        if "content-length" in headers:
            return Answer(status, headers, await reader.readexactly(int(headers["content-length"]))), closes
        if headers.get("transfer-encoding") == "chunked":
            return Answer(status, headers, await _chunks(reader)), closes
        return Answer(status, headers, await reader.read()), True

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return b"".join(parts)
