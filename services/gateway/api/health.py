"""/healthz and /readyz: whether the gateway lives, which of its parts are well, and how the other services are. No key needed."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from services.gateway.parts import GATEWAY, Gateway
from services.gateway.supervisor import failing
from shared.errors import MillraceError
from shared.http import json_response
from shared.questions.health import HEALTH


async def alive(_request: web.Request) -> web.Response:
    """GET: 200 as long as the process answers."""
    return json_response({"alive": True})


async def ready(request: web.Request) -> web.Response:
    """GET: 200 when every part of the gateway is well, else 503; the body names the parts, here and of every service.

    Another service that is down does not make the gateway unready: it goes on accepting webhooks. It is in `degraded`. What dies
    again and again is in `failing` as well, with its last exit, also in the moments when it answers.
    """
    gateway = request.app[GATEWAY]
    services = dict(zip(HEALTH, await asyncio.gather(*(_document(gateway, name) for name in HEALTH)), strict=True))
    body = gateway.health.document() | {
        "degraded": [name for name, document in services.items() if not document["ready"]],
        "failing": failing(gateway.supervisor),
        "services": services,
        "sandbox": services["executor"].get("sandbox", {"tier": None}),
    }
    return json_response(body, status=200 if gateway.health.ready else 503)


async def _document(gateway: Gateway, service: str) -> dict[str, Any]:
    try:
        document: dict[str, Any] = await gateway.bus.ask(HEALTH[service](org="global"))
    except MillraceError as error:
        return {"service": service, "ready": False, "parts": {}, "detail": error.detail}
    return document


ROUTES = [web.get("/healthz", alive), web.get("/readyz", ready)]
