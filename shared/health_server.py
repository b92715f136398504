"""The health server of a service process: `/healthz`, `/readyz`, `/metrics`."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
from aiohttp import web

from shared.health import Health


class HealthSettings(msgspec.Struct, frozen=True):
    """Where this process answers `/healthz`, `/readyz` and `/metrics`: `host:port` or `unix:PATH`; None: nowhere."""

    address: str | None


@contextlib.asynccontextmanager
async def health_served(health: Health, settings: HealthSettings) -> AsyncIterator[None]:
    """Answer for the block, where the settings say."""
    if settings.address is None:
        yield
        return
    application = web.Application()
    application.add_routes(
        [web.get("/healthz", _alive), web.get("/readyz", _ready_answer(health)), web.get("/metrics", metrics_answer(health))]
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


def metrics_answer(health: Health) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return the handler of `/metrics`: the parts and facts of `health` as gauges."""

    async def metrics(_request: web.Request) -> web.Response:
        document = health.document()
        lines = [
            "# TYPE millrace_part_ready gauge",
            *(
                f'millrace_part_ready{{service="{health.service}",part="{part}"}} {int(state["ready"])}'
                for part, state in document.pop("parts").items()
            ),
        ]
        for fact, fields in document.items():
            for name, number in fields.items() if isinstance(fields, dict) else ():
                gauge = f"millrace_{fact}_{name}"
                values = {of: one for of, one in number.items() if isinstance(one, int | float)} if isinstance(number, dict) else {}
                if isinstance(number, int | float):
                    lines += [f"# TYPE {gauge} gauge", f'{gauge}{{service="{health.service}"}} {number}']
                elif values:
                    lines.append(f"# TYPE {gauge} gauge")
                    lines += [f'{gauge}{{service="{health.service}",of={json.dumps(of)}}} {one}' for of, one in values.items()]
        return web.Response(text="\n".join(lines) + "\n", content_type="text/plain")

    return metrics
