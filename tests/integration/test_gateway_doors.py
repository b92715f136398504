"""What strangers can send to the public port: nobody else is kept waiting, nothing is held for long, nothing breaks."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import msgspec
import pytest

from services.gateway import peers, serving
from services.gateway.memory_budget import MIB
from shared import http
from shared.encryption import Keyring
from shared.envelope import new_id, open_message
from shared.http import Pace
from shared.messages import Audited
from shared.messages.declaration import hashed_key
from shared.registry import RegistryWriter
from shared.resources.source import SourceEntry
from tests.integration.test_gateway import BODY, SECRET, Client, entry, gateway, received, signed, source, stream
from tests.support.inside import bus_of, eventually
from tests.support.servers import Place

LARGE = 25 * MIB - 20_000
# Of the form of a signature, and nobody's.
FORGED = signed(b"something else")
# Seconds within which a good webhook is answered, whatever else comes.
SOON = 15.0


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Client]:
    async with gateway(place) as made:
        yield made


async def registered(place: Place, client: Client, org: str, adapter: str = "github", secret: str = SECRET) -> str:
    """A source of an organization."""
    id_ = new_id()
    ring = Keyring(tuple(base64.b64decode(key) for key in place.credentials.keys))
    sealed = {"secret": ring.seal(secret, org, id_, "secret")}
    made: SourceEntry = msgspec.structs.replace(
        entry(place, adapter=adapter), id=id_, org=org, key=hashed_key(org, id_), sealed=sealed
    )
    async with bus_of(place, "events") as bus:
        await RegistryWriter(bus.client, "sources", SourceEntry).put(id_, 1, made)

    async def seen() -> bool:
        return (await client("GET", f"/hooks/{id_}", headers={})).status == 405

    await eventually(seen)
    return id_


class Raw:
    """A connection of which every byte is chosen."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self) -> tuple[int, dict[str, str]]:
        """Return the status and the headers of the next answer."""
        text = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        line, *headers = text.rstrip().split("\r\n")
        pairs = (header.partition(": ") for header in headers)
        return int(line.split()[1]), {name.lower(): value for name, _, value in pairs}

    async def answer(self) -> tuple[int, bytes]:
        """Return the status and the body of the next answer."""
        status, headers = await self.head()
        return status, await self.reader.readexactly(int(headers.get("content-length", "0")))

    async def end(self, within: float) -> bytes:
        """Return what comes until the other side closes. Raises TimeoutError."""
        said = b""
        async with asyncio.timeout(within):
            with contextlib.suppress(ConnectionError):
                while part := await self.reader.read(65536):
                    said += part
        return said


@asynccontextmanager
async def raw(client: Client, data: bytes = b"") -> AsyncIterator[Raw]:
    address = urlsplit(client.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(data)
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def ended_of(connections: list[Raw], seconds: float, least: int) -> int:
    """Return how many connections have ended after so many seconds, or once `least` have."""
    ends = [asyncio.ensure_future(one.end(120)) for one in connections]
    try:
        await asyncio.wait(ends, timeout=seconds)

        async def enough() -> bool:
            return sum(one.done() for one in ends) >= least

        await eventually(enough)
        return sum(one.done() for one in ends)
    finally:
        for one in ends:
            one.cancel()
        await asyncio.gather(*ends, return_exceptions=True)


def post(source: str, headers: dict[str, str], *more: str) -> bytes:
    lines = [f"POST /hooks/{source} HTTP/1.1", "Host: h", *(f"{name}: {value}" for name, value in headers.items()), *more]
    return "\r\n".join([*lines, "", ""]).encode()


async def all_good(client: Client, source: str, until: Callable[[], bool], at_least: int = 20) -> None:
    """Send good webhooks, on connections of their own, until a claim holds: each is admitted, and soon."""
    sent = 0
    while sent < at_least or not until():
        before = time.monotonic()
        headers = signed(BODY) | {"Connection": "close"}
        got = await client("POST", f"/hooks/{source}", data=BODY, headers=headers)
        assert got.status == 202, got
        assert time.monotonic() - before < SOON
        sent += 1


# -- bodies ------------------------------------------------------------------------------------------------------------


async def test_large_bodies_that_dribble_on_ones_own_hook_leave_room_for_everybody_else(
    monkeypatch: pytest.MonkeyPatch, place: Place, client: Client
) -> None:
    monkeypatch.setattr(http, "PACE", Pace(grace=3.0, rate=1024.0, whole=120.0))
    own, others = await registered(place, client, "hostile"), await registered(place, client, "good")
    answers: list[int] = []

    async def dribble(length: tuple[str, ...], content: Callable[[bytes], bytes]) -> None:
        async with raw(client, post(own, FORGED, *length)) as sender:
            part = content(bytes(MIB))
            # Read as it comes: whoever is refused and sends on is cut off before long, and then finds no answer any more.
            answered = asyncio.ensure_future(sender.answer())
            with contextlib.suppress(ConnectionError):
                for _ in range(LARGE // MIB):
                    sender.writer.write(part)
                    await sender.writer.drain()
            answers.append((await answered)[0])

    def chunk(part: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(part), part)

    whole = [dribble((f"Content-Length: {LARGE}",), lambda part: part) for _ in range(5)]
    chunked = [dribble(("Transfer-Encoding: chunked",), chunk) for _ in range(5)]
    attack = asyncio.gather(*whole, *chunked)
    await all_good(client, others, attack.done)
    await attack
    # Two fit into what one source may have, and are too slow; to the others it is said at once that there are too many.
    assert sorted(answers) == [408] * answers.count(408) + [429] * answers.count(429)
    assert answers.count(408) in {1, 2}
    large = bytes(LARGE)
    for hook in (own, others):
        got = await client("POST", f"/hooks/{hook}", data=io.BytesIO(large), headers=signed(large))
        assert got.status == 202
    refused = [one for one in await stream(place, "WEBHOOKS") if one.type == "webhook.refused"]
    assert {msgspec.json.decode(one.data)["reason"] for one in refused} == {"room"}


async def test_small_bodies_that_dribble_on_ones_own_hook_leave_room_for_everybody_else(
    monkeypatch: pytest.MonkeyPatch, place: Place, client: Client
) -> None:
    monkeypatch.setattr(http, "PACE", Pace(grace=3.0, rate=1024.0, whole=120.0))
    own, others = await registered(place, client, "hostile"), await registered(place, client, "good")
    async with contextlib.AsyncExitStack() as stack:
        senders = [await stack.enter_async_context(raw(client)) for _ in range(400)]
        # All at once: none is given up before the last one comes.
        for sender in senders:
            sender.writer.write(post(own, FORGED, "Content-Length: 64000") + bytes(63_000))
        answers = asyncio.gather(*(sender.answer() for sender in senders))
        await all_good(client, others, answers.done)
        statuses = [status for status, _ in await answers]
    # An eighth of the reserve.
    assert 125 <= statuses.count(408) <= 133
    assert statuses.count(429) == 400 - statuses.count(408)


async def test_a_body_that_is_too_slow_is_408_and_a_slow_small_one_is_taken(
    monkeypatch: pytest.MonkeyPatch, place: Place, client: Client
) -> None:
    monkeypatch.setattr(http, "PACE", Pace(grace=20.0, rate=1000.0, whole=40.0))
    json = {**client.key, "Content-Type": "application/json"}
    async with source(place, client) as (id_, _):
        length = f"Content-Length: {len(BODY)}"
        async with raw(client, post(id_, signed(BODY), length)) as slow:
            for letter in BODY:
                await asyncio.sleep(0.8 / len(BODY))
                slow.writer.write(bytes([letter]))
            assert (await slow.answer())[0] == 202
        monkeypatch.setattr(http, "PACE", Pace(grace=1.5, rate=1000.0, whole=4.0))
        async with raw(client, post(id_, signed(BODY), length) + BODY[:5]) as stopped:
            before = time.monotonic()
            status, said = await stopped.answer()
            assert (status, 1.4 < time.monotonic() - before < 15) == (408, True)
            assert b"1000 bytes a second" in said
            assert await stopped.end(30) == b""
        # Ever fast enough, and never done.
        async with raw(client, post(id_, signed(BODY), "Content-Length: 10000000")) as endless:
            before = time.monotonic()
            answer = asyncio.ensure_future(endless.answer())
            while not answer.done():
                endless.writer.write(bytes(2000))
                await asyncio.sleep(0.1)
            assert ((await answer)[0], 3.5 < time.monotonic() - before < 20) == (408, True)
        # The API's bodies likewise.
        head = post("", json, "Content-Length: 20").replace(b"/hooks/", b"/api/v1/workflows/none/runs")
        async with raw(client, head + b"{") as api:
            assert (await api.answer())[0] == 408


async def test_nothing_of_a_body_is_read_where_the_head_shows_that_it_cannot_be_genuine(place: Place, client: Client) -> None:
    good = signed(BODY)
    length = f"Content-Length: {len(BODY)}"
    timed = await registered(place, client, "default", "standard-webhooks", "whsec_YW5vdGhlciBzZWNyZXQ=")
    async with source(place, client) as (id_, _):
        now = int(time.time())
        standard = {"webhook-id": "w", "webhook-timestamp": str(now), "webhook-signature": "v1," + "A" * 43 + "="}
        refused = [
            (id_, {name: value for name, value in good.items() if "Signature" not in name}),
            (id_, good | {"X-Hub-Signature-256": "sha256="}),
            (id_, good | {"X-Hub-Signature-256": "sha256=" + "g" * 64}),
            (id_, good | {"X-Hub-Signature-256": good["X-Hub-Signature-256"].removeprefix("sha256=")}),
            (timed, standard | {"webhook-timestamp": str(now - 301)}),
            (timed, standard | {"webhook-timestamp": "soon"}),
            (timed, {name: value for name, value in standard.items() if name != "webhook-id"}),
        ]
        for hook, headers in refused:
            for more in ((), ("Expect: 100-continue",)):
                async with raw(client, post(hook, headers, length, *more)) as sender:
                    status, answered = await sender.head()
                    assert (status, answered["connection"]) == (401, "close"), headers
        async with raw(client, post(id_, good, length, "Expect: 100-continue")) as sender:
            assert await sender.answer() == (100, b"")
            sender.writer.write(BODY)
            assert (await sender.answer())[0] == 202
        # Who does not wait for it is not told.
        async with raw(client, post(id_, good, length, "Expect: 100-continue") + BODY) as sender:
            assert (await sender.answer())[0] == 202
        async with raw(client, post(id_, good, length, "Expect: the moon")) as sender:
            assert (await sender.answer())[0] == 417
    key = client.key["Authorization"]
    put = "PUT /api/v1/workspace/files/a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n"
    put += f"Authorization: {key}\r\n\r\n"
    async with raw(client, put.replace(key, "Bearer no").encode()) as sender:
        assert (await sender.head())[0] == 401
    async with raw(client, put.encode()) as sender:
        assert await sender.answer() == (100, b"")

    async def audited() -> list[Audited]:
        said = [open_message(one) for one in await stream(place, "AUDIT")]
        return [one for one in said if isinstance(one, Audited) and one.target == id_]

    # In one or two seconds, and so in as many messages.
    assert 1 <= len(await eventually(audited)) <= 6  # type: ignore[arg-type]
    assert len(await received(place)) == 2


async def test_of_an_answer_that_nobody_takes_the_system_keeps_little() -> None:
    with serving.listening(None, "127.0.0.1", 0) as door, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(door.getsockname())
        served, _ = door.accept()
        with served:
            served.setblocking(False)
            kept = 0
            with contextlib.suppress(BlockingIOError):
                while kept < 4 * serving.UNTAKEN:
                    kept += served.send(b"x" * 4096)
    assert kept < 4 * serving.UNTAKEN


# -- heads and connections ---------------------------------------------------------------------------------------------


async def test_unfinished_heads_are_closed_and_those_who_wait_for_their_answer_or_between_requests_are_not(
    monkeypatch: pytest.MonkeyPatch, place: Place, client: Client
) -> None:
    monkeypatch.setattr(peers, "HEAD", 3.0)
    monkeypatch.setattr(peers, "LOOKS", 0.1)
    # The body of the one that is busy comes when all others are gone.
    monkeypatch.setattr(http, "PACE", Pace(grace=90.0, rate=1024.0, whole=120.0))
    ask = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
    async with (
        source(place, client) as (id_, _),
        contextlib.AsyncExitStack() as stack,
        raw(client, ask) as idle,
        raw(client, post(id_, signed(BODY), f"Content-Length: {len(BODY)}")) as busy,
    ):
        assert (await idle.answer())[0] == 200
        begun = [ask[:-2], b"GET ", ask + ask[:-2]]
        unfinished = [await stack.enter_async_context(raw(client, begun[number % 3])) for number in range(300)]
        before = time.monotonic()
        # One byte now and then does not help.
        for _ in range(8):
            await asyncio.sleep(0.1)
            for one in unfinished:
                one.writer.write(b"X")
        said = [await one.end(30) for one in unfinished]
        assert time.monotonic() - before < 30
        assert [b" 408 " in one for one in said] == [True] * 300
        assert b'"status":408' in said[0]
        # What is behind a request that is being served waits for its turn.
        busy.writer.write(BODY + ask[:10])
        assert (await busy.answer())[0] == 202
        busy.writer.write(ask[10:])
        assert (await busy.answer())[0] == 200
        idle.writer.write(ask)
        assert (await idle.answer())[0] == 200
    async with raw(client) as silent:
        # Nothing was asked, so there is nothing to answer.
        assert await silent.end(30) == b""


async def test_beyond_the_most_connections_those_least_in_use_go_first(monkeypatch: pytest.MonkeyPatch, place: Place) -> None:
    monkeypatch.setattr(peers, "SEARCHES", 0.0)
    async with (
        gateway(place, MILLRACE_MAX_CONNECTIONS="32") as client,
        source(place, client) as (id_, _),
        contextlib.AsyncExitStack() as stack,
    ):
        # Fills: silent, unfinished, idle, and with a body that does not come.
        ask = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
        for begun in (
            b"",
            b"GET ",
            ask,
            post(id_, FORGED, "Content-Length: 5000") + b"x",
            post(id_, FORGED, "Content-Length: 5000"),
        ):
            strangers = [await stack.enter_async_context(raw(client, begun)) for _ in range(40)]
            await all_good(client, id_, lambda: True)
            closed = await ended_of(strangers, 0.5, 9)
            assert 8 < closed < 40, begun


async def test_an_address_has_a_part_of_the_connections_and_a_proxy_stands_for_many(
    monkeypatch: pytest.MonkeyPatch, place: Place
) -> None:
    monkeypatch.setattr(peers, "neighbourhood", lambda remote, _trusted: remote)
    async with gateway(place, MILLRACE_MAX_CONNECTIONS="64") as client, contextlib.AsyncExitStack() as stack:
        strangers = [await stack.enter_async_context(raw(client)) for _ in range(20)]
        # An eighth stays.
        assert await ended_of(strangers, 1.0, 12) == 12
        assert (await client("GET", "/healthz")).status == 200


async def test_a_client_that_takes_no_answers_is_asked_for_nothing_more_and_let_go(
    monkeypatch: pytest.MonkeyPatch, client: Client
) -> None:
    monkeypatch.setattr(peers, "STILL", 1.0)
    monkeypatch.setattr(peers, "LOOKS", 0.1)
    address = urlsplit(client.url)
    loop = asyncio.get_running_loop()
    # A transport of our own: a stream would read ahead.
    lost = loop.create_future()

    class Deaf(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            transport.pause_reading()

        def connection_lost(self, _error: BaseException | None) -> None:
            lost.set_result(None)

    transport, _ = await loop.create_connection(Deaf, address.hostname, address.port)
    ask = b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n" % (b"x" * 4000)
    for _ in range(20_000):
        if lost.done():
            break
        transport.write(ask)
        if transport.get_write_buffer_size() > MIB:
            before = time.monotonic()
            assert (await client("GET", "/healthz")).status == 200
            assert time.monotonic() - before < SOON
            await asyncio.sleep(0.05)
    await asyncio.wait_for(lost, 60)
    transport.abort()


async def test_thousands_of_pipelined_requests_are_answered_in_order_while_others_are_served(place: Place, client: Client) -> None:
    count = 3000
    async with source(place, client) as (id_, _), raw(client) as sender:
        asked = b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number for number in range(count))
        sender.writer.write(asked)
        answers = asyncio.ensure_future(_answers(sender, count))
        await all_good(client, id_, answers.done, at_least=5)
        for number, (status, said) in enumerate(await answers):
            assert (status, said.endswith(b'"there is nothing at /%d"}' % number)) == (404, True)


async def _answers(sender: Raw, count: int) -> list[tuple[int, bytes]]:
    return [await sender.answer() for _ in range(count)]


# -- what is no request ------------------------------------------------------------------------------------------------

SIZED = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNK = b"%x" % len(BODY)
CASES: dict[str, tuple[bytes, int]] = {
    "length and chunks": (SIZED + CHUNKED + b"\r\n" + BODY, 400),
    "two lengths": (SIZED + SIZED + b"\r\n" + BODY, 400),
    "two different lengths": (SIZED + b"Content-Length: 3\r\n\r\n" + BODY, 400),
    "a negative length": (b"Content-Length: -1\r\n\r\n", 400),
    "a signed length": (b"Content-Length: +5\r\n\r\nabcde", 400),
    "a length beyond 64 bits": (b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
    "an absurd length": (b"Content-Length: 999999999999999999\r\n\r\n", 413),
    "a folded header": (SIZED + b"X-A: b\r\n c\r\n\r\n" + BODY, 400),
    "a space before the colon": (SIZED + b"X-A : b\r\n\r\n" + BODY, 400),
    "line feeds alone": (SIZED.replace(b"\r", b"") + b"X-A: b\n\n" + BODY, 400),
    "two encodings": (CHUNKED + CHUNKED + b"\r\n0\r\n\r\n", 400),
    "an encoding that nobody knows": (b"Transfer-Encoding: x\r\n\r\n", 400),
    "an encoding before chunks": (b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "an encoding behind chunks": (b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    "an encoding in two lines": (CHUNKED + b"transfer-encoding: identity\r\n\r\n0\r\n\r\n", 400),
    "an encoding without a name": (b"Transfer-Encoding:\r\n" + SIZED + b"\r\n" + BODY, 400),
    "an encoding behind a vertical tab": (b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "a list of lengths": (b"Content-Length: 5, 5\r\n\r\nabcde", 400),
    "a length in hexadecimal": (b"Content-Length: 0x5\r\n\r\nabcde", 400),
    "a carriage return in a header": (SIZED + b"X-A: a\rb\r\n\r\n" + BODY, 400),
    "a chunk's size with a line feed alone": (CHUNKED + b"\r\n5\nabcde\r\n0\r\n\r\n", 400),
    "a carriage return in an extension": (CHUNKED + b"\r\n5;a\rb\r\nabcde\r\n0\r\n\r\n", 400),
    "chunks with extensions": (CHUNKED + b"\r\n" + CHUNK + b';a=b;c="d"\r\n' + BODY + b"\r\n0;x\r\n\r\n", 202),
    "chunks with trailers": (CHUNKED + b"\r\n" + CHUNK + b"\r\n" + BODY + b"\r\n0\r\nX-T: a\r\n\r\n", 202),
    "a chunk without a size": (CHUNKED + b"\r\nzz\r\n", 400),
    "a chunk beyond 64 bits": (CHUNKED + b"\r\nffffffffffffffffffff\r\n", 400),
    "a chunk that is longer than it says": (CHUNKED + b"\r\n5\r\nabcdeXX\r\n", 400),
    "NUL in a header": (SIZED + b"X-A: a\x00b\r\n\r\n" + BODY, 400),
    "NUL in a header's name": (SIZED + b"X-\x00A: ab\r\n\r\n" + BODY, 400),
    "control characters in a header": (SIZED + b"X-A: a\x01\x7fb\r\n\r\n" + BODY, 400),
    "no text in a header": (SIZED + b"X-A: \xff\xfe\xed\xa0\x80\r\n\r\n" + BODY, 202),
    "no text in a header's name": (SIZED + b"X-\xff: x\r\n\r\n" + BODY, 400),
    "a content type that is none": (SIZED + b'Content-Type: \xff/\xff;;;charset="\r\n\r\n' + BODY, 400),
    "a long header": (SIZED + b"X-A: " + b"x" * 9000 + b"\r\n\r\n" + BODY, 431),
    "many headers": (SIZED + b"X-A: x\r\n" * 200 + b"\r\n" + BODY, 431),
    "a long head": (SIZED + (b"X-A: " + b"x" * 1000 + b"\r\n") * 60 + b"\r\n" + BODY, 431),
    "a long head without an end": (SIZED + (b"X-A: " + b"x" * 1000 + b"\r\n") * 60, 431),
}
QUERIES: dict[str, tuple[bytes, int]] = {
    "NUL, no text and surrogates, escaped": (b"?a=%00&%00=b&c=%ff%fe&d=%ed%a0%80", 202),
    "half an escape": (b"?a=%&b=%zz&;&=&&", 202),
    "NUL": (b"?a=\x00", 400),
    "no text": (b"?a=\xff", 400),
    "many parameters": (b"?" + b"&".join([b"a"] * 300), 414),
    "a long one": (b"?a=" + b"x" * 9000, 414),
}
LINES: dict[str, tuple[bytes, int]] = {
    "HTTP/1.0": (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
    "chunks in HTTP/1.0": (b"POST /hooks/x HTTP/1.0\r\n" + CHUNKED + b"\r\n0\r\n\r\n", 400),
    "carriage returns alone": (b"GET /healthz HTTP/1.1\rHost: h\r\n\r\n", 400),
    "a header that begins folded": (b"GET /healthz HTTP/1.1\r\n X: y\r\nHost: h\r\n\r\n", 400),
    "HTTP/1.2": (b"GET /healthz HTTP/1.2\r\nHost: h\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "an address before, as proxies write it": (
        b"PROXY TCP4 192.0.2.7 192.0.2.8 4444 80\r\nGET /healthz HTTP/1.1\r\nHost: h\r\n\r\n",
        400,
    ),
    "the same in binary": (b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12), 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "every byte": (bytes(range(256)) * 10, 400),
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "a whole address": (b"GET http://elsewhere.example/healthz HTTP/1.1\r\nHost: h\r\n\r\n", 200),
    "an address without a host": (b"GET http:///healthz HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "a tunnel": (b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "a tunnel to nowhere": (b"CONNECT [::1 HTTP/1.1\r\nHost: h\r\n\r\nabc", 400),
    "everything": (b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", 404),
    "another protocol": (b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 400),
    "a protocol that nobody knows": (b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 200),
    "empty lines before": (b"\r\n" * 5 + b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n", 200),
}
# One path each, by another writing; a proxy in front could let one pass that it would not let pass as it is meant.
PATHS = (
    "//api/v1/runs",
    "/api//v1/runs",
    "/healthz/../api/v1/runs",
    "/healthz/%2e%2E/api/v1/runs",
    "/./api/v1/runs",
    "/api/v1/runs/.",
    "/api/v1/.%2e",
    "/api%2fv1/runs",
    "/api/v1%5Cruns",
    "/api\\v1\\runs",
    "/api/v1/runs%00.html",
    "/api/v1/%c0%ae%c0%ae/runs",
    "/api/v1/runs/%e0%80%af",
    "/api/v1/runs#/healthz",
    "http://h//api/v1/runs",
    "http://h/healthz/../api/v1/runs",
)
ONE_WRITING = ("/api/v1/runs/...", "/api/v1/runs/a.b/", "/api/v1/runs/%C3%A4%252e?a=//../%2F#b", "http://h/api/v1/runs/a?b=/../")


async def test_a_path_that_could_mean_two_things_is_refused_whoever_asks(client: Client) -> None:
    for headers in (client.key, {}):
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        for path in (*PATHS, *ONE_WRITING):
            async with raw(client, f"GET {path} HTTP/1.1\r\nHost: h\r\n{lines}\r\n".encode()) as sender:
                status, said = await sender.answer()
            if path in PATHS:
                assert (status, b'"the path has ' in said) == (400, True), (path, said)
            else:
                assert status in ({404, 503} if headers else {401}), (path, said)


async def test_answers_to_what_is_no_request_have_the_headers_of_every_answer(
    monkeypatch: pytest.MonkeyPatch, client: Client
) -> None:
    for data, wanted in (
        (b"nothing\r\n\r\n", 400),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /healthz HT", 408),
    ):
        if wanted == 408:
            monkeypatch.setattr(peers, "HEAD", 0.5)
        async with raw(client, data) as sender:
            status, headers = await sender.head()
        assert status == wanted
        assert headers.items() >= {
            ("content-type", "application/problem+json"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
            ("cache-control", "no-store"),
            ("server", "millrace"),
        }, headers


async def test_what_is_no_request_is_refused_and_leaves_nothing_behind(
    place: Place, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    async with source(place, client) as (id_, _):
        head = post(id_, signed(BODY)).removesuffix(b"\r\n")
        asked = {name: (head + rest, status) for name, (rest, status) in CASES.items()}
        asked |= {f"query: {name}": _with_query(head, id_, *case) for name, case in QUERIES.items()}
        asked |= {f"line: {name}": case for name, case in LINES.items()}
        assert (await client.hook(id_)).status == 202
        before = _descriptors()
        for whole in (True, False):
            for name, (data, status) in asked.items():
                async with raw(client) as sender:
                    # At once, and in pieces that end anywhere.
                    for at in range(0, len(data), len(data) if whole else 1 + len(data) // 7):
                        sender.writer.write(data[at:][: len(data) if whole else 1 + len(data) // 7])
                        if not whole:
                            await asyncio.sleep(0.002)
                    async with asyncio.timeout(SOON):
                        got, said = await sender.answer()
                    assert got == status, (name, whole, said)
        assert (await client.hook(id_)).status == 202

        async def left() -> bool:
            return _descriptors() <= before

        await eventually(left)
    # What senders get wrong is not in the log.
    assert caplog.records == []
    for message in await received(place):
        text = msgspec.json.encode(message)
        assert b"\\u0000" not in text
    queries = [message.query for message in await received(place) if message.query]
    assert queries[0] == [("a", "\ufffd"), ("\ufffd", "b"), ("c", "\ufffd\ufffd"), ("d", "\ufffd\ufffd\ufffd")]


def _with_query(head: bytes, source: str, query: bytes, status: int) -> tuple[bytes, int]:
    return head.replace(source.encode(), source.encode() + query) + SIZED + b"\r\n" + BODY, status


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
