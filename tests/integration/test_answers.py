"""What every answer of the gateway has: headers for browsers, pages of other origins, compression; and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest

from services.gateway.api.headers import LARGE
from services.gateway.api.sign_in_page import FOLDER
from services.gateway.config import read
from shared.config import ConfigError, Environment
from shared.questions.logs import TailLogs, TailPage
from shared.questions.workflows import ListWorkflows, WorkflowList
from tests.integration.test_gateway import Client, answering, gateway, received, signed, source, workflow
from tests.support.inside import eventually
from tests.support.servers import Place
from tests.support.stack import ROOT

HERE = "https://console.example.com"
QUESTION = {"Origin": HERE, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization"}


async def test_no_answer_is_shown_framed_kept_or_told_of_and_https_stays_https(place: Place) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    given = {"MILLRACE_PUBLIC_URL": "https://hooks.example.com", "MILLRACE_LISTEN_FD": str(listening.fileno())}
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with gateway(place, **given) as client:
        listening.detach()
        client.url = url
        answers = [
            await client(method, path)
            for method, path in (
                ("GET", "/api/v1/sources"),
                ("GET", "/api/v1/nothing"),
                ("GET", "/nothing"),
                ("GET", "/healthz"),
                ("GET", "/docs"),
                ("GET", "/openapi.json"),
                ("GET", "/oauth/authorize"),
                ("POST", "/healthz"),
            )
        ]
        async with source(place, client) as (id_, _):
            answers += [await client.hook(id_), await client.hook(id_, b"other", signed(b"another"))]
        for got in answers:
            assert got.headers["X-Content-Type-Options"] == "nosniff"
            assert got.headers["Referrer-Policy"] == "no-referrer"
            assert "frame-ancestors 'none'" in got.headers["Content-Security-Policy"]
            assert got.headers["Strict-Transport-Security"] == "max-age=63072000"
            assert got.headers["Cache-Control"] in {"no-store", "no-cache"}
            assert "Access-Control-Allow-Origin" not in got.headers
        public = [got.headers["Cache-Control"] for got in answers if got.headers["Cache-Control"] != "no-store"]
        assert public == ["no-cache", "no-cache"]
    async with gateway(place) as client:
        assert "Strict-Transport-Security" not in (await client("GET", "/healthz")).headers


async def test_pages_of_other_origins_use_the_api_only_where_they_are_named(place: Place) -> None:
    async with gateway(place, MILLRACE_CORS_ORIGINS=f"{HERE}, http://localhost:5173") as client:
        told = await client("OPTIONS", "/api/v1/variables/a", headers=QUESTION)
        assert (told.status, told.headers["Access-Control-Allow-Origin"], told.headers["Vary"]) == (204, HERE, "Origin")
        assert "PUT" in told.headers["Access-Control-Allow-Methods"]
        assert "Authorization" in told.headers["Access-Control-Allow-Headers"]
        got = await client("GET", "/api/v1/nothing", headers=client.key | {"Origin": HERE})
        assert (got.status, got.headers["Access-Control-Allow-Origin"]) == (404, HERE)
        assert "Access-Control-Allow-Credentials" not in {*got.headers, *told.headers}
        for elsewhere in ("https://evil.example", f"{HERE}.evil.example", "null", HERE.upper(), f"{HERE}:8443"):
            told = await client("OPTIONS", "/api/v1/variables/a", headers=QUESTION | {"Origin": elsewhere})
            assert told.status == 401
            got = await client("GET", "/api/v1/nothing", headers=client.key | {"Origin": elsewhere})
            assert "Access-Control-Allow-Origin" not in {*got.headers, *told.headers}
            # A cache must not give one's answer to the other.
            assert got.headers["Vary"] == "Origin"
        for path in ("/hooks/x", "/oauth/authorize", "/healthz"):
            for method in ("OPTIONS", "GET"):
                assert "Access-Control-Allow-Origin" not in (await client(method, path, headers=QUESTION)).headers, path
    async with gateway(place) as client:
        assert (await client("OPTIONS", "/api/v1/variables/a", headers=QUESTION)).status == 401


@pytest.mark.parametrize("given", ["*", "https://a.example/", "a.example", "https://A.example", "https://*.example", "null"])
def test_an_origin_that_is_none_is_named_at_the_start(given: str) -> None:
    environment = Environment({"MILLRACE_CORS_ORIGINS": f"https://a.example, {given}"})
    read(environment)
    with pytest.raises(ConfigError) as refused:
        environment.check()
    assert [one.path for one in refused.value.problems if "origin" in one.message] == ["MILLRACE_CORS_ORIGINS"]


async def test_large_answers_to_questions_are_in_gzip_for_those_who_take_it(place: Place) -> None:
    many = WorkflowList(items=[workflow()] * 100, next_cursor=None)

    async def listed(_question: ListWorkflows, _deps: Any) -> WorkflowList:
        return many

    async with (
        gateway(place) as client,
        answering(place, "executor", {ListWorkflows: listed}),
        aiohttp.ClientSession(auto_decompress=False) as session,
    ):
        plain = Client(session, client.url, client.key["Authorization"].removeprefix("Bearer "))

        async def get(path: str, accepted: str, method: str = "GET") -> tuple[str | None, bytes, str]:
            got = await plain(method, path, headers=client.key | {"Accept-Encoding": accepted})
            return got.headers.get("Content-Encoding"), got.body, got.headers.get("Vary", "")

        [script] = (FOLDER / "console" / "assets").glob("index-*.js")
        for path in ("/api/v1/workflows", "/openapi.json", "/docs", f"/console/assets/{script.name}"):
            coding, whole, vary = await get(path, "identity")
            assert (coding, vary) == (None, "Accept-Encoding"), path
            assert len(whole) > LARGE
            for accepted in ("gzip", "br, GZIP;q=0.5", "*"):
                coding, body, _ = await get(path, accepted)
                assert (coding, gzip.decompress(body)) == ("gzip", whole)
                assert len(body) < len(whole) / 2
            assert (await get(path, "gzip;q=0, br"))[0] is None
        # What is small, an error, or no answer to a question stays as it is.
        for method, path in (("GET", "/healthz"), ("GET", "/api/v1/nothing"), ("POST", "/api/v1/workflows/none/runs")):
            assert (await get(path, "gzip", method))[0] is None


async def test_a_body_is_taken_as_it_is_and_in_no_other_coding(place: Place) -> None:
    async with gateway(place) as client:
        for coding, wanted in (("identity", 422), ("Identity", 422), ("gzip", 415), ("principal", 415)):
            got = await client(
                "POST", "/api/v1/keys/ci/rotate", json={"overlap": -1}, headers=client.key | {"Content-Encoding": coding}
            )
            assert (got.status, coding) == (wanted, coding)


# -- the end -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def process(place: Place, **environment: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A gateway in a process of its own, with its address."""
    started = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "services", "gateway"],
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | place.environment("gateway", MILLRACE_PORT="0", **environment),
    )
    assert started.stdout is not None
    url, reading = "", None
    try:
        async with asyncio.timeout(60):
            while b"service.started" not in (line := await started.stdout.readline()):
                if b"gateway.serving" in line:
                    url = msgspec.json.decode(line)["url"]
        reading = asyncio.create_task(started.stdout.read())
        yield started, url
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()
        if reading is not None:
            await reading


async def test_a_gateway_that_is_told_to_end_says_so_first_and_loses_no_request(place: Place) -> None:
    told = asyncio.Event()
    statuses: Counter[int] = Counter()

    async with gateway(place) as other, source(place, other) as (id_, _), process(place, MILLRACE_STOP_DELAY="4") as (ending, url):

        async def sender(session: aiohttp.ClientSession) -> None:
            """Send one webhook after the other over a connection that is kept, until none is taken any more."""
            while True:
                try:
                    async with session.post(f"{url}/hooks/{id_}", data=b"{}", headers=signed(b"{}")) as response:
                        await response.read()
                        statuses[response.status] += 1
                        if response.headers.get("Connection") == "close":
                            told.set()
                except aiohttp.ClientConnectionError:
                    # Refused, or not accepted any more.
                    return

        async with aiohttp.ClientSession() as session, aiohttp.ClientSession() as asking:
            # Both are in use when the end begins, and one is idle.
            async with asking.get(f"{url}/healthz") as alive:
                assert (alive.status, alive.headers.get("Connection")) == (200, None)
            senders = [asyncio.create_task(sender(session)) for _ in range(8)]

            async def begun() -> bool:
                return statuses[202] > 20

            await eventually(begun)
            assert not told.is_set()
            ending.send_signal(signal.SIGTERM)

            async def unready() -> bool:
                async with asking.get(f"{url}/readyz") as response:
                    return "start" in (await response.json())["parts"]

            await eventually(unready)
            at_unready = statuses[202]

            async def taken_all_the_same() -> bool:
                return statuses[202] > at_unready

            await eventually(taken_all_the_same)
            await asyncio.gather(*senders)
        assert told.is_set()
        assert set(statuses) == {202}
        async with asyncio.timeout(60):
            assert await ending.wait() == 0
        # Whatever was taken was answered.
        assert len(await received(place)) == statuses[202]


UPLOADS = 20


async def test_uploads_that_are_half_way_when_the_end_begins_are_taken_and_streams_end(place: Place) -> None:
    async def tail(_asked: TailLogs, _deps: Any) -> TailPage:
        return TailPage(items=[], position="1", dropped=0, more=False)

    async with (
        gateway(place) as other,
        source(place, other) as (id_, _),
        answering(place, "logs", {TailLogs: tail}),
        process(place) as (ending, url),
        aiohttp.ClientSession() as session,
    ):
        begun, half_way, over = 0, asyncio.Event(), asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            nonlocal begun
            # It is asked for once its head was taken.
            begun += 1
            if begun == UPLOADS:
                half_way.set()
            yield b"{"
            await over.wait()
            yield b"}"

        async def upload() -> int:
            async with session.post(f"{url}/hooks/{id_}", data=body(), headers=signed(b"{}"), expect100=True) as response:
                return response.status

        uploads = [asyncio.create_task(upload()) for _ in range(UPLOADS)]
        async with session.get(f"{url}/api/v1/logs/tail", headers=other.key) as stream:
            assert stream.status == 200
            await stream.content.readuntil(b"\n\n")

            async with asyncio.timeout(60):
                await half_way.wait()
            ending.send_signal(signal.SIGTERM)
            # It ends as streams do, and is not cut.
            await stream.content.read()
        over.set()
        assert await asyncio.gather(*uploads) == [202] * UPLOADS
        async with asyncio.timeout(60):
            assert await ending.wait() == 0
        assert len(await received(place)) == UPLOADS


async def test_a_request_that_is_sent_into_a_connection_at_the_end_is_answered(place: Place) -> None:
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(gateway(place))
        host, _, port = client.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        stopping = asyncio.create_task(stack.aclose())

        async def closed() -> bool:
            try:
                _, late = await asyncio.open_connection(host, int(port))
            except OSError:
                return True
            late.close()
            return False

        await eventually(closed, every=0.001)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
        said = await reader.read()
        assert said.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nConnection: close\r\n" in said
        writer.close()
        await stopping
