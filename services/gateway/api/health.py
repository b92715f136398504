"""/healthz and /readyz: whether the gateway lives, and which of its parts are well. They need no key."""

from __future__ import annotations

from aiohttp import web

from services.gateway.parts import GATEWAY
from shared.http import json_response


async def alive(_request: web.Request) -> web.Response:
    """GET: 200 as long as the process answers."""
    return json_response({"alive": True})


async def ready(request: web.Request) -> web.Response:
    """GET: 200 when every part is well, 503 while one is not; the body names the parts."""
    health = request.app[GATEWAY].health
    return json_response(health.document(), status=200 if health.ready else 503)


ROUTES = [web.get("/healthz", alive), web.get("/readyz", ready)]
