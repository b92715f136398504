"""What is said of a head that is refused."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.http_parser import HttpRequestParser

from services.gateway.heads import refusal_of


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        (b"Content-Type: a/b\r\ncontent-type: a/c\r\n", "the header Content-Type stands more than once"),
        (b"Content-Length: 1\r\nContent-Length: 1\r\n", "the header Content-Length stands more than once"),
        (b"Host: a\r\nHost: b\r\n", "the header Host stands more than once"),
        (b"X Y: a\r\n", "the request is not HTTP/1.1 (RFC 9112)"),
    ],
)
async def test_a_header_that_may_stand_once_and_stands_twice_is_named(headers: bytes, said: str) -> None:
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16)
    with pytest.raises(BadHttpMessage) as refused:
        parser.feed_data(b"POST / HTTP/1.1\r\n" + headers + b"\r\n")
    assert refusal_of(refused.value) == (400, "Malformed", said)
