"""Hosts outside that answer without end, or with more than is read: each costs its own request and little memory."""

from __future__ import annotations

import asyncio
import gzip
import itertools
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest

from shared.egress.fetching import MOST, AnsweredTooMuch, Fetcher
from shared.egress.policy import EgressRules, rules
from shared.errors import Unavailable

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BOMB = gzip.compress(bytes(100_000_000), 9)
PIECE = 64 * 1024


class Host:
    """A host on the loopback that sends `parts` to whoever asks."""

    def __init__(self) -> None:
        self.url = ""
        self.parts: Iterable[bytes] = ()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        try:
            await reader.readuntil(b"\r\n\r\n")
            for part in self.parts:
                writer.write(part)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            # What was written is sent yet.
            writer.close()


@asynccontextmanager
async def hosting() -> AsyncIterator[tuple[Host, Fetcher]]:
    host, fetcher = Host(), Fetcher(EgressRules(rules("127.0.0.1", allows=True)))
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0)
    async with server:
        host.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        try:
            yield host, fetcher
        finally:
            fetcher.close()


ENDLESS: dict[str, Iterable[bytes]] = {
    "interim answers": itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 2000),
    "chunks": itertools.chain([CHUNKED], itertools.repeat(b"10000\r\n" + b"x" * PIECE + b"\r\n")),
    "extensions of a chunk": itertools.chain([CHUNKED, b"1;"], itertools.repeat(b"a=b;" * 10_000)),
    "trailers": itertools.chain([CHUNKED, b"0\r\n"], itertools.repeat(b"X-A: b\r\n" * 5000)),
    "fields of a head": itertools.chain([b"HTTP/1.1 200 OK\r\n"], itertools.repeat(b"X-A: b\r\n" * 5000)),
    "a field": itertools.chain([b"HTTP/1.1 200 OK\r\nX-A: "], itertools.repeat(b"a" * PIECE)),
    "a body that was compressed": [
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB),
        BOMB,
    ],
}


@pytest.mark.parametrize("what", ENDLESS)
async def test_what_does_not_end_is_ended(what: str) -> None:
    async with hosting() as (host, fetcher):
        host.parts = ENDLESS[what]
        with pytest.raises(Unavailable) as refused:
            await fetcher.get("acme", host.url, timeout=20)
        assert "did not answer within" not in refused.value.detail


async def test_interim_answers_without_end_are_an_answer_that_is_too_large() -> None:
    async with hosting() as (host, fetcher):
        host.parts = ENDLESS["interim answers"]
        with pytest.raises(AnsweredTooMuch, match=f"answered more than {MOST} bytes"):
            await fetcher.get("acme", host.url, timeout=20)
        # A few of them are none.
        host.parts = [b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"]
        assert await fetcher.get("acme", host.url, timeout=20) == b"ok"
        host.parts = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MOST, bytes(MOST)]
        assert len(await fetcher.get("acme", host.url, timeout=20)) == MOST
