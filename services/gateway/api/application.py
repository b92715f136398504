"""All routes in one application: what needs a key is mounted below /api/v1, behind one door."""

from __future__ import annotations

from aiohttp import web

from services.gateway.api import (
    connections,
    deliveries,
    files,
    health,
    hooks,
    integrations,
    logs,
    runs,
    settings,
    sources,
    streams,
    subscriptions,
    workflows,
)
from services.gateway.api.access import access
from services.gateway.parts import GATEWAY, Gateway
from shared.http import no_such_route, problems, with_problems

API_ROUTES = [
    *files.ROUTES,
    *workflows.ROUTES,
    *runs.ROUTES,
    *streams.ROUTES,
    *sources.ROUTES,
    *subscriptions.ROUTES,
    *integrations.ROUTES,
    *connections.ROUTES,
    *settings.ROUTES,
    *deliveries.ROUTES,
    *logs.ROUTES,
]


def application(gateway: Gateway) -> web.Application:
    """Return the application; what is unknown answers 404, and below /api/v1 401 to those without a key."""
    api = web.Application(middlewares=[problems, access])
    api.add_routes(API_ROUTES)
    made = web.Application()
    made[GATEWAY] = gateway
    made.on_shutdown.append(_end_streams)
    made.router.add_route("*", "/hooks/{id}", with_problems(hooks.receive))
    made.add_routes([web.route(route.method, route.path, with_problems(route.handler)) for route in health.ROUTES])
    made.add_subapp("/api/v1", api)
    made.router.add_route("*", "/{path:.*}", with_problems(_nowhere))
    return made


async def _end_streams(application: web.Application) -> None:
    """Have what would go on for ever end, before what is in flight is waited for."""
    application[GATEWAY].watching.close()


async def _nowhere(request: web.Request) -> web.StreamResponse:
    """Answer for what no other route takes: 405 where one would with another method, else 404."""
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        if resource is not request.match_info.route.resource:
            allowed |= (await resource.resolve(request))[1]
    if allowed:
        raise web.HTTPMethodNotAllowed(request.method, allowed)
    raise no_such_route(request)
