"""All endpoints in one application; unknown paths below /api/v1 are refused to those without a key."""

from __future__ import annotations

from aiohttp import web

from services.gateway.api import (
    approvals,
    approve,
    artifacts,
    authorizing,
    commits,
    connections,
    console,
    data_providers,
    dead_letters,
    deliveries,
    device,
    digests,
    environments,
    erasures,
    events,
    export,
    files,
    form_documents,
    forms,
    health,
    history,
    hooks,
    invitations,
    key_rotation,
    keys,
    logins,
    logs,
    me,
    members,
    messages,
    needs,
    openid,
    organizations,
    passkeys,
    reference,
    replays,
    repository,
    resources,
    resuming,
    roles,
    runs,
    schedules,
    sessions,
    sign_in_methods,
    sign_in_page,
    signing_in,
    source_tests,
    state,
    streams,
    subscriptions,
    tail,
    users,
    workflows,
)
from services.gateway.api.access import authenticated, challenge
from services.gateway.api.endpoint import Endpoint
from services.gateway.api.headers import completing, preflight
from services.gateway.api.mcp import server as mcp
from services.gateway.api.measured import RequestDurations
from services.gateway.api.served import route
from services.gateway.parts import GATEWAY, Gateway
from shared.errors import MethodNotAllowed
from shared.http import no_such_route, with_problems

ENDPOINTS: tuple[Endpoint, ...] = (
    *hooks.ENDPOINTS,
    *health.ENDPOINTS,
    *reference.ENDPOINTS,
    *files.ENDPOINTS,
    *commits.ENDPOINTS,
    *history.ENDPOINTS,
    *artifacts.ENDPOINTS,
    *environments.ENDPOINTS,
    *repository.ENDPOINTS,
    *workflows.ENDPOINTS,
    *data_providers.ENDPOINTS,
    *runs.ENDPOINTS,
    *state.ENDPOINTS,
    *resuming.ENDPOINTS,
    *approvals.ENDPOINTS,
    *approve.ENDPOINTS,
    *forms.ENDPOINTS,
    *form_documents.ENDPOINTS,
    *streams.ENDPOINTS,
    *resources.ENDPOINTS,
    *needs.ENDPOINTS,
    *organizations.ENDPOINTS,
    *keys.ENDPOINTS,
    *logins.ENDPOINTS,
    *device.ENDPOINTS,
    *users.ENDPOINTS,
    *members.ENDPOINTS,
    *invitations.ENDPOINTS,
    *roles.ENDPOINTS,
    *me.ENDPOINTS,
    *sign_in_methods.ENDPOINTS,
    *signing_in.ENDPOINTS,
    *passkeys.ENDPOINTS,
    *console.ENDPOINTS,
    *sign_in_page.ENDPOINTS,
    *sessions.ENDPOINTS,
    *subscriptions.ENDPOINTS,
    *schedules.ENDPOINTS,
    *connections.ENDPOINTS,
    *authorizing.ENDPOINTS,
    *openid.ENDPOINTS,
    *key_rotation.ENDPOINTS,
    *events.ENDPOINTS,
    *source_tests.ENDPOINTS,
    *deliveries.ENDPOINTS,
    *dead_letters.ENDPOINTS,
    *replays.ENDPOINTS,
    *digests.ENDPOINTS,
    *erasures.ENDPOINTS,
    *logs.ENDPOINTS,
    *export.ENDPOINTS,
    *tail.ENDPOINTS,
    *messages.ENDPOINTS,
    *mcp.ENDPOINTS,
)


def application(gateway: Gateway) -> web.Application:
    """Return the application; an unknown path answers 404, or 405 where another method would be answered."""
    made = web.Application()
    made[GATEWAY] = gateway
    made[reference.REFERENCE] = reference.Reference(ENDPOINTS)
    made.on_shutdown.append(_end_streams)
    made.on_response_prepare.append(completing(gateway))
    durations = RequestDurations(gateway.health)
    for endpoint in ENDPOINTS:
        route(made.router, endpoint, durations, gateway)
    for path, handler in ((r"/api/v1/{path:[\s\S]*}", _nowhere_with_key), (r"/{path:[\s\S]*}", _nowhere)):
        made.router.add_route("*", path, durations.of(path, with_problems(handler)))
    return made


async def _end_streams(application: web.Application) -> None:
    """End responses that would go on for ever, before requests in flight are waited for."""
    application[GATEWAY].watching.close()


async def _nowhere_with_key(request: web.Request) -> web.StreamResponse:
    gateway = request.app[GATEWAY]
    if (told := await preflight(gateway, request)) is not None:
        return told
    if await authenticated(gateway, request) is None:
        return challenge(request)
    return await _nowhere(request)


async def _nowhere(request: web.Request) -> web.StreamResponse:
    """Answer requests that no endpoint takes: 405 where one would with another method, else 404."""
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        if resource.canonical not in {"/{path}", "/api/v1/{path}"}:
            allowed |= (await resource.resolve(request))[1]
    if allowed:
        raise MethodNotAllowed(f"{request.path} takes {', '.join(sorted(allowed))}", allowed=sorted(allowed))
    raise no_such_route(request)
