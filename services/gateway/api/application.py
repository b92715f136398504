"""All routes in one application: what needs a key is mounted below /api/v1, behind one door."""

from __future__ import annotations

from aiohttp import web

from services.gateway.api import (
    connections,
    deliveries,
    files,
    health,
    hooks,
    logs,
    runs,
    sources,
    subscriptions,
    workflows,
)
from services.gateway.api.access import access
from services.gateway.parts import GATEWAY, Gateway
from shared.http import problems

API_ROUTES = [
    *files.ROUTES,
    *workflows.ROUTES,
    *runs.ROUTES,
    *sources.ROUTES,
    *subscriptions.ROUTES,
    *connections.ROUTES,
    *deliveries.ROUTES,
    *logs.ROUTES,
]


def application(gateway: Gateway) -> web.Application:
    """Return the application; what is unknown answers 404, and below /api/v1 401 to those without a key."""
    api = web.Application(middlewares=[access])
    api.add_routes(API_ROUTES)
    made = web.Application(middlewares=[problems])
    made[GATEWAY] = gateway
    made.router.add_route("*", "/hooks/{id}", hooks.receive)
    made.add_routes(health.ROUTES)
    made.add_subapp("/api/v1", api)
    return made
