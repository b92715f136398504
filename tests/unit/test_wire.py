"""Frames come off the wire as nats-py's own parser reads them, however the bytes are split."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import nats.errors
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.protocol.parser import Parser

from shared.client import headers_of
from shared.wire import Wire

Event = tuple[Any, ...]


class Stock:
    """Notes what nats-py's parser makes of bytes; stands in for its client."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, head: bytes | None) -> None:
        self.events.append(("message", sid, subject, reply, data, head or b""))

    async def _process_err(self, text: str) -> None:
        self.events.append(("-ERR", text))

    async def _process_ping(self) -> None:
        self.events.append(("PING",))

    async def _process_pong(self) -> None:
        self.events.append(("PONG",))

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.events.append(("INFO", info))


class Ours:
    """Notes what comes off a wire."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def message(self, sid: int, subject: bytes, reply: bytes, data: bytes, head: bytes) -> None:
        assert {type(data), type(head)} == {bytes}
        self.events.append(("message", sid, subject, reply, data, head))

    def control(self, line: bytes) -> None:
        operation, _, rest = line.partition(b" ")
        match operation:
            case b"-ERR":
                self.events.append(("-ERR", rest.decode().lower()))
            case b"INFO":
                self.events.append(("INFO", json.loads(rest)))
            case b"+OK":
                pass
            case _:
                self.events.append((operation.decode(),))

    def lost(self, error: Exception) -> None:
        self.events.append(("lost", type(error)))


def stock(stream: bytes) -> list[Event]:
    noted = Stock()
    asyncio.run(Parser(noted).parse(stream))
    return noted.events


def ours(*parts: bytes) -> list[Event]:
    noted, wire = Ours(), Wire()
    wire.deliver(noted)
    for part in parts:
        wire.data_received(part)
    return noted.events


# Payloads are anybody's: they may look like frames, or like the end of one.
LOOKALIKES = [b"\r\n", b"\r", b"PING\r\n", b"MSG a 1 2\r\nxy\r\n", b"\r\nHMSG a 1 12 12\r\nNATS/1.0\r\n\r\n"]
PAYLOADS = st.one_of(st.binary(max_size=40), st.sampled_from(LOOKALIKES))
SUBJECTS = st.sampled_from([b"a", b"run.x.started", b"_INBOX.abc.1f", b"MSG", b"$JS.ACK.RUNS.c.1.2.3.4.5"])
HEADS = st.one_of(
    st.just(b""),
    st.sampled_from([b"NATS/1.0 503\r\n\r\n", b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 7\r\n\r\n"]),
    st.lists(st.tuples(st.sampled_from([b"A", b"Nats-Msg-Id"]), st.sampled_from([b"", b"1", b"a:b", b" x "])), min_size=1).map(
        lambda lines: b"NATS/1.0\r\n" + b"".join(b"%b: %b\r\n" % line for line in lines) + b"\r\n"
    ),
)
CONTROLS = st.sampled_from(
    [b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"-ERR 'Permissions Violation for Publish to \"x\"'\r\n", b'INFO {"server_id":"x"}\r\n']
)


def framed(message: tuple[bytes, int, bytes, bytes, bytes]) -> bytes:
    subject, sid, reply, head, data = message
    to = b"%b %d %b" % (subject, sid, reply + b" " if reply else b"")
    to = to if to.endswith(b" ") else to + b" "
    if head:
        return b"HMSG %b%d %d\r\n%b%b\r\n" % (to, len(head), len(head) + len(data), head, data)
    return b"MSG %b%d\r\n%b\r\n" % (to, len(data), data)


MESSAGES = st.tuples(SUBJECTS, st.integers(1, 10**6), st.one_of(st.just(b""), SUBJECTS), HEADS, PAYLOADS).map(framed)
STREAMS = st.lists(st.one_of(MESSAGES, CONTROLS), max_size=6).map(b"".join)


@given(STREAMS)
def test_every_split_of_a_stream_brings_what_the_parser_of_nats_py_reads(stream: bytes) -> None:
    expected = stock(stream)
    assert ours(stream) == expected
    for at in range(len(stream) + 1):
        assert ours(stream[:at], stream[at:]) == expected


@given(STREAMS, st.lists(st.integers(1, 9), min_size=1))
def test_a_stream_in_crumbs_brings_the_same(stream: bytes, sizes: list[int]) -> None:
    parts, at = [], 0
    while at < len(stream):
        size = sizes[len(parts) % len(sizes)]
        parts.append(stream[at : at + size])
        at += size
    assert ours(*parts) == stock(stream)


@given(st.lists(st.one_of(MESSAGES, CONTROLS), min_size=1, max_size=3), st.integers(0, 10**6))
def test_a_frame_whose_rest_is_missing_is_not_handed_on(frames: list[bytes], cut: int) -> None:
    last = frames[-1]
    whole, part = b"".join(frames[:-1]), last[: cut % len(last)]
    assert ours(whole + part) == stock(whole)


def test_a_large_message_in_many_parts_is_read_once() -> None:
    data = bytes(range(256)) * 8192
    stream = framed((b"a", 1, b"b", b"", data)) + b"PING\r\n"
    parts = [stream[at : at + 65536] for at in range(0, len(stream), 65536)]
    assert ours(*parts) == [("message", 1, b"a", b"b", data, b""), ("PING",)]


NO_FRAMES = [
    b"MSG a 1 x",
    b"MSG a x 1",
    b"MSG a 1",
    b"MSG a 1 b c 1",
    b"HMSG a 1 9 3",
    b"HMSG a 1 12",
    b"MSG a 1 -1",
    b"HMSG a 1 -1 3",
]


@pytest.mark.parametrize("line", [*NO_FRAMES, b"WHAT", b""])
def test_a_frame_that_cannot_be_one_ends_the_connection_and_nothing_after_it_is_read(line: bytes) -> None:
    following = framed((b"forged", 1, b"", b"", b"x"))
    assert ours(line + b"\r\nxyz\r\n" + following, following) == [("lost", nats.errors.ProtocolError)]


def test_bytes_that_came_with_the_handshake_are_read_before_the_following() -> None:
    async def handshake() -> list[Event]:
        noted, wire = Ours(), Wire()
        wire.data_received(b"INFO {}\r\nPONG\r\nMSG a 1 1\r\n")
        assert [await wire.readline(), await wire.readline()] == [b"INFO {}\r\n", b"PONG\r\n"]
        wire.deliver(noted)
        wire.data_received(b"x\r\n")
        return noted.events

    assert asyncio.run(handshake()) == [("message", 1, b"a", b"", b"x", b"")]


NAMES = st.text(st.sampled_from("abcABC-09_"), min_size=1, max_size=8)
VALUES = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=12)


# A status without a description comes without headers: of such nats-py would make a description.
STATUSES = st.sampled_from(["", " 404 No Messages", " 100 Idle Heartbeat", " 409 Message Size Exceeds MaxBytes"])


@given(st.one_of(st.tuples(STATUSES, st.dictionaries(NAMES, VALUES, max_size=4)), st.just((" 503", {}))))
def test_headers_are_those_that_nats_py_reads(told: tuple[str, dict[str, str]]) -> None:
    status, headers = told
    lines = [f"NATS/1.0{status}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    head = "\r\n".join(lines).encode()
    assert headers_of(head) == asyncio.run(Client()._process_headers(head))
