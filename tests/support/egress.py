"""A proxy on a real listening socket, servers that it may reach, and a client that speaks to it byte by byte."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address

from services.executor.sandbox.egress.network import EgressLimits, Network, Record
from services.executor.sandbox.egress.proxy import Proxy
from shared.egress.policy import EgressRules, rules
from shared.egress.resolver import Resolve, Resolver

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
LOOPBACK = "127.0.0.1/32"
"""What an operator would have to allow for a run to reach the servers of these tests."""


def listening() -> socket.socket:
    """A socket that listens on a free port of the loopback."""
    return socket.create_server(("127.0.0.1", 0))


@asynccontextmanager
async def resolver() -> AsyncIterator[Resolve]:
    """The machine's own."""
    made = Resolver()
    try:
        yield made.of("acme")
    finally:
        made.close()


class Names:
    """Resolves by a table; a name with several answers gets one after the other. Remembers who asked."""

    def __init__(self, **answers: str | list[str]) -> None:
        self._answers = {name.replace("_", "."): answer for name, answer in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str) -> list[object]:
        self.asked.append(host)
        if host not in self._answers:
            raise OSError(host)
        answer = self._answers[host]
        chosen = answer if isinstance(answer, str) else answer[min(len(answer), self.asked.count(host)) - 1]
        return [ip_address(one) for one in chosen.split()]


class Outlet:
    """A running proxy and what it told."""

    def __init__(self, proxy: Proxy, address: str, listener: socket.socket, told: "asyncio.Queue[Record]") -> None:
        self.proxy = proxy
        self.address = address
        self.port: int = listener.getsockname()[1]
        self._told = told

    async def record(self) -> Record:
        """The next connection that ended."""
        return await self._told.get()

    @property
    def told_all(self) -> bool:
        """Whether there is no record that nobody asked for."""
        return self._told.empty()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Ends]:
        """A client's connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def ask(self, head: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send a head, and answer status, fields and all that follows."""
        async with self.connection() as (reader, writer):
            writer.write(head)
            writer.write_eof()
            status, fields = await answer(reader)
            return status, fields, await reader.read()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Read the head of an answer."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().removesuffix("\r\n\r\n").split("\r\n")
    version, status, phrase = first.split(" ", 2)
    assert version.startswith("HTTP/1.")
    fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(status), fields | {":phrase": phrase}


def connect(target: object, *lines: str) -> bytes:
    """The head of a CONNECT."""
    return "\r\n".join([f"CONNECT {target} HTTP/1.1", f"Host: {target}", *lines, "", ""]).encode()


async def tunnel(ends: Ends, target: object) -> Ends:
    """Ask for a tunnel and have it."""
    ends[1].write(connect(target))
    status, fields = await answer(ends[0])
    assert status == 200, fields
    return ends


def way_out(record: Callable[[Record], None]) -> Network:
    """Return the network of a run whose operator lets it reach the loopback."""
    return Network(EgressRules(tuple(rules(LOOPBACK, allows=True))).of("acme"), Names(), record)


@asynccontextmanager
async def greeting_server() -> AsyncIterator[str]:
    """Serve "reached" to every HTTP request for the block; yields the address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nreached")

    async with server(serve) as port:
        yield f"http://127.0.0.1:{port}/"


@asynccontextmanager
async def outlet(
    resolve: Resolve | Names | None = None,
    *,
    allow: str = LOOPBACK,
    deny: str = "",
    limits: EgressLimits | None = None,
    token: str | None = None,
) -> AsyncIterator[Outlet]:
    """Run a proxy; by default one whose operator lets it reach the loopback."""
    policy = EgressRules((*rules(allow, allows=True), *rules(deny, allows=False))).of("acme")
    told: asyncio.Queue[Record] = asyncio.Queue()
    network = Network(policy, resolve or Names(), told.put_nowait, limits or EgressLimits())
    listener = listening()
    made = Outlet(Proxy(network, listener, token), "", listener, told)
    made.address = made.proxy.start()
    try:
        yield made
    finally:
        await made.proxy.close()


@asynccontextmanager
async def server(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[int]:
    """A server on the loopback; answers its port. What its connections raise ends the test."""
    failures: list[BaseException] = []
    tasks: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except ConnectionError:
            pass
        except Exception as error:
            failures.append(error)
        finally:
            writer.transport.abort() if writer.is_closing() else writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(one(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    running = await asyncio.start_server(accept, sock=listening(), limit=1 << 20)
    try:
        yield running.sockets[0].getsockname()[1]
    finally:
        running.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if failures:
        raise failures[0]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes, until its end; then end."""
    while piece := await reader.read(65536):
        writer.write(piece)
        await writer.drain()
    writer.write_eof()
