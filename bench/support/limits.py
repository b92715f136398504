"""`python -m bench.support.limits`: the servers that the gateway is compared with, on aiohttp and uvloop as it is.

Without BENCH_NATS_URL a request is read and answered, and that is all; with it, each one first awaits a publish of its own to
the stream BENCH. `/same` answers with the bytes that were last put there. Prints its address; ends with SIGTERM.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats
import uvloop
from aiohttp import web
from nats.js import JetStreamContext

STREAM = "BENCH"
SUBJECT = "bench.published"
_SAME: web.AppKey[list[bytes]] = web.AppKey("same", list)
_STREAM: web.AppKey[JetStreamContext] = web.AppKey("stream", JetStreamContext)


async def read_only(request: web.Request) -> web.Response:
    """Read the body; keep nothing."""
    await request.read()
    return _accepted()


async def publish_each(request: web.Request) -> web.Response:
    """Answer when the body is on disk, in a commit of its own; the id makes it as repeatable as the gateway's."""
    body = await request.read()
    await request.app[_STREAM].publish(SUBJECT, body, headers={"Nats-Msg-Id": str(uuid.uuid4())})
    return _accepted()


async def keep_same(request: web.Request) -> web.Response:
    """Answer with these bytes from now on."""
    request.app[_SAME][0] = await request.read()
    return web.Response(status=204)


async def say_same(request: web.Request) -> web.Response:
    """Read the body, and answer with the bytes that were put here."""
    await request.read()
    return web.Response(body=request.app[_SAME][0], content_type="application/json")


def _accepted() -> web.Response:
    return web.Response(body=b'{"id":"%b"}' % str(uuid.uuid4()).encode(), status=202, content_type="application/json")


@asynccontextmanager
async def _application() -> AsyncIterator[web.Application]:
    application = web.Application()
    url = os.environ.get("BENCH_NATS_URL")
    if url is None:
        application.add_routes([web.post("/hooks/{id}", read_only), web.put("/same", keep_same)])
        application.add_routes([web.get("/same", say_same), web.post("/same", say_same)])
        application[_SAME] = [b""]
        yield application
        return
    client = await nats.connect(url)
    try:
        application[_STREAM] = client.jetstream(timeout=10)
        application.add_routes([web.post("/hooks/{id}", publish_each)])
        yield application
    finally:
        await client.close()


async def _serve() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with _application() as application:
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
            await web.SockSite(runner, sock).start()
            print(f"http://127.0.0.1:{sock.getsockname()[1]}", flush=True)
            await stop.wait()
        finally:
            await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(_serve())
