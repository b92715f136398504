"""The health server of a service process: `/healthz`, `/readyz`, `/metrics`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
from aiohttp import web

from shared.health import Health
from shared.metrics import CONTENT_TYPE, exposition


class HealthSettings(msgspec.Struct, frozen=True):
    """The address of `/healthz`, `/readyz` and `/metrics` of this process: `host:port` or `unix:PATH`; None: nowhere."""

    address: str | None


@contextlib.asynccontextmanager
async def health_served(health: Health, settings: HealthSettings) -> AsyncIterator[None]:
    """Serve health for the block, at the address in the settings."""
    if settings.address is None:
        yield
        return
    application = web.Application()
    application.add_routes(
        [web.get("/healthz", _alive), web.get("/readyz", _ready_answer(health)), web.get("/metrics", _metrics(health))]
    )
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await _site(runner, settings.address).start()
        yield
    finally:
        await runner.cleanup()


def _site(runner: web.AppRunner, address: str) -> web.BaseSite:
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - a socket left by a killed predecessor
        return web.UnixSite(runner, path)
    host, _, port = address.rpartition(":")
    return web.TCPSite(runner, host or "127.0.0.1", int(port))


async def _alive(_request: web.Request) -> web.Response:
    return web.json_response({"alive": True})


def _ready_answer(health: Health) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def ready(_request: web.Request) -> web.Response:
        return web.json_response(health.document(), status=200 if health.ready else 503)

    return ready


def _metrics(health: Health) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=exposition(health), headers={"Content-Type": CONTENT_TYPE})

    return metrics
