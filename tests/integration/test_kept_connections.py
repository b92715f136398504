"""Connections of a client are kept within a run, through the proxy of its way out, and never cost a request."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from millrace import _run
from millrace._runtime import exchange
from tests.support.egress import Names, outlet
from tests.support.inside import eventually
from tests.support.tls import Certificates, certificates_in

WELL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates_in(tmp_path_factory.mktemp("tls"))


class Server:
    """An API by TLS: `connections` were made, and `asked` holds the method and the path of each request, by connection."""

    def __init__(self, cafile: Path) -> None:
        self.cafile = str(cafile)
        self.url = ""
        self.asked: list[list[str]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection as the paths say."""
        asked: list[str] = []
        self.asked.append(asked)
        try:
            while True:
                method, path, *_ = (await reader.readuntil(b"\r\n\r\n")).decode().split(" ")
                if path == "/vanish" and asked:
                    # Read, and gone without an answer: as if it had been closed for its rest just now.
                    asked.append(f"{method} {path}")
                    writer.transport.abort()
                    return
                asked.append(f"{method} {path}")
                ends = b"Connection: close\r\n" if path == "/last" else b""
                answer = WELL.replace(b"Content-Length", ends + b"Content-Length")
                writer.write(answer.removesuffix(b"ok") if method == "HEAD" else answer)
                await writer.drain()
                if path in {"/last", "/rests"}:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def get(self, path: str, method: str = "GET") -> bytes:
        """Send a request as a client does."""
        told = await asyncio.to_thread(exchange.exchanged, method, self.url + path, {}, None, timeout=10, cafile=self.cafile)
        return told[3]


@asynccontextmanager
async def reached(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """Have a server behind a run's proxy."""
    made = Server(certificates.authority)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.server)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=context)
    async with server, outlet(Names(api_example="127.0.0.1"), token="a-token") as out:
        made.url = f"https://api.example:{server.sockets[0].getsockname()[1]}"
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("https_proxy", f"http://run:a-token@127.0.0.1:{out.port}")
        # However long a test takes between two requests.
        for name in ("_RESTS", "_RESTS_SHORTLY"):
            monkeypatch.setattr(exchange, name, 3600.0)
        try:
            yield made
        finally:
            exchange.close()


async def test_one_connection_carries_what_a_run_asks_for_one_after_the_other(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with reached(certificates, monkeypatch) as api:
        for method in ("GET", "POST", "HEAD", "PATCH", "GET"):
            assert await api.get("/a", method) in {b"ok", b""}
        # At the same time each has its own; these are kept as well.
        await asyncio.gather(*(api.get("/b") for _ in range(3)))
        await asyncio.gather(*(api.get("/c") for _ in range(3)))
        assert api.asked[0][:5] == [f"{method} /a" for method in ("GET", "POST", "HEAD", "PATCH", "GET")]
        assert len(api.asked) <= 3
        # Another run of this process begins anew, and so does a process that is forked off.
        monkeypatch.setattr(_run, "job", {"run": "another"})
        before = len(api.asked)
        await api.get("/d")
        assert len(api.asked) == before + 1
        monkeypatch.setattr(exchange.os, "getpid", lambda: -1)
        await api.get("/e")
        assert len(api.asked) == before + 2


async def test_one_that_the_server_closes_is_not_used_again(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    async with reached(certificates, monkeypatch) as api:
        await api.get("/last")
        assert exchange._kept._resting == []
        await api.get("/rests")

        async def has_ended() -> bool:
            return all(exchange._has_ended(one.connection) for one in exchange._kept._resting)

        await eventually(has_ended)
        # Even what must not be sent twice is sent: the end was seen before.
        assert await api.get("/a", "POST") == b"ok"
        assert [len(one) for one in api.asked] == [1, 1, 1]


async def test_one_that_ends_under_a_request_costs_nothing_that_may_be_repeated_and_repeats_nothing_else(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with reached(certificates, monkeypatch) as api:
        await api.get("/a")
        assert await api.get("/vanish") == b"ok"
        assert api.asked == [["GET /a", "GET /vanish"], ["GET /vanish"]]
        with pytest.raises(exchange.Unanswered, match="the connection ended before the answer"):
            await api.get("/vanish", "POST")
        assert api.asked == [["GET /a", "GET /vanish"], ["GET /vanish", "POST /vanish"]]


async def test_what_has_rested_for_long_is_not_used_and_few_rest(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with reached(certificates, monkeypatch) as api:
        monkeypatch.setattr(exchange, "_RESTS_SHORTLY", 0.0)
        await api.get("/a")
        await api.get("/b", "POST")
        await api.get("/c", "PUT")
        assert sorted(map(len, api.asked)) == [1, 2]
        monkeypatch.setattr(exchange, "_KEPT", 1)
        await asyncio.gather(*(api.get("/d") for _ in range(4)))
        assert len(exchange._kept._resting) == 1
        exchange.close()
        assert exchange._kept._resting == []


async def test_a_refusal_of_the_proxy_is_told_as_it_was(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    async with reached(certificates, monkeypatch) as api:
        api.url = "https://elsewhere.example"
        with pytest.raises(exchange.Unanswered, match=r"502 Bad Gateway by Millrace: elsewhere\.example has no address"):
            await api.get("/a")
        api.url = "https://10.0.0.1"
        with pytest.raises(exchange.Unanswered, match="403 Forbidden by Millrace"):
            await api.get("/a")
