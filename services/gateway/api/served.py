"""Serves calls by their endpoint's declaration: authorizes, decodes, answers and records them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
import structlog
from aiohttp import web

from services.gateway.api.access import Caller, address, authenticated, authorize, challenge, denied, remote
from services.gateway.api.endpoint import PARTS, Answer, Call, Endpoint, Streamed
from services.gateway.api.headers import shrink
from services.gateway.api.measured import RequestDurations
from services.gateway.api.traced import identified, traced
from services.gateway.domain import EVERY_ORG, org_of
from services.gateway.limits import LIMITS
from services.gateway.parts import GATEWAY, Gateway
from services.gateway.principals import Principal
from services.gateway.sessions import Session
from shared import log
from shared.errors import Invalid, MillraceError, NotFound, PermissionDenied, Problem, UnsupportedMediaType
from shared.http import JSON_LIMIT, TAKE, Next, body_of, json_response, with_problems
from shared.messages import Audited
from shared.messages.declaration import KEY
from shared.organizations import PLATFORM
from shared.values import Key, aside, check, decode, fitted, misfit, storable

R = TypeVar("R")
_log = structlog.get_logger()


def route(router: web.UrlDispatcher, endpoint: Endpoint, durations: RequestDurations, gateway: Gateway) -> None:
    """Have calls of an endpoint served, measured and traced; HEAD wherever GET is."""
    handler = traced(endpoint, durations.of(endpoint.path, with_problems(_served(endpoint))), gateway)
    # Webhooks: nothing is put between them and their handler.
    handler = handler if endpoint.is_direct else _told(endpoint, handler)
    if endpoint.method == "GET":
        router.add_get(endpoint.path, handler)
    else:
        router.add_route(endpoint.method, endpoint.path, handler)


def _told(endpoint: Endpoint, handler: Next) -> Next:
    """Return the handler, which logs what it answers while the level is `debug`: the endpoint, never what is asked."""

    async def told(request: web.Request) -> web.StreamResponse:
        begun = time.perf_counter()
        response = await handler(request)
        if log.is_debugging():
            _log.debug("request.answered", endpoint=endpoint.name, status=response.status, ms=log.ms_since(begun))
        return response

    return told


def _served(endpoint: Endpoint) -> Next:
    if endpoint.is_direct:
        return endpoint.handler

    async def public(request: web.Request) -> web.StreamResponse:
        gateway = request.app[GATEWAY]
        try:
            _check_address(endpoint, request)
            call: Call[Any, Any] = Call(gateway, Caller("anonymous", "global", remote(gateway, request)), request)
            return await _handled(endpoint, call)
        except MillraceError as error:
            if endpoint.page is None:
                raise
            return endpoint.page(error)

    async def keyed(request: web.Request) -> web.StreamResponse:
        gateway = request.app[GATEWAY]
        found = await authenticated(gateway, request)
        if found is None:
            return challenge(request)
        session = found if isinstance(found, Session) else None
        principal = found.principal if isinstance(found, Session) else found
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise UnsupportedMediaType("bodies are not to be compressed")
        _check_address(endpoint, request)
        org = _org(endpoint, request, principal)
        if limits := gateway.limits.of_caller(principal, org):
            request[LIMITS] = limits
            gateway.limits.take(limits)
        try:
            authorize(principal, endpoint, org, request.match_info)
        except (PermissionDenied, NotFound) as error:
            # In the trail of an organization stands what its own callers did, and what was done in it.
            whose = principal.org if principal.role_in(org) is None or org == EVERY_ORG else org
            denied(gateway, request, principal.actor, org=whose, outcome=error.kind, reason=endpoint.name)
            raise
        identified(gateway, org)
        gateway.removing.check(org)
        for_platform = principal.acts_for_platform(endpoint.role)
        caller = Caller(principal.actor, org, remote(gateway, request), for_platform, principal, session)
        call: Call[Any, Any] = Call(gateway, caller, request)
        with (
            gateway.memory.hold(org=org, address=address(gateway, request)) as held,
            gateway.users.streams.during(principal, request.transport) if endpoint.is_stream else contextlib.nullcontext(),
        ):
            request[TAKE] = held.take
            response = await _recorded(endpoint, call, lambda: _handled(endpoint, call))
            shrink(request, response)
            return response

    return public if endpoint.role is None else keyed


def _check_address(endpoint: Endpoint, request: web.Request) -> None:
    for name, value in (*request.match_info.items(), *request.query.items()):
        check(name, "the query string")
        check(value, name)
    known = () if endpoint.query is None else endpoint.query.__struct_encode_fields__
    for name in known if endpoint.role is None else ("org", *known):
        if len(request.query.getall(name, ())) > 1:
            # Its first value would mean one thing and its last another.
            raise Invalid(f"{name} is given more than once", errors=(Problem(name, "is given more than once"),))


def _org(endpoint: Endpoint, request: web.Request, principal: Principal) -> str:
    """Return the organization that a request means: a caller of one means that one where none is named."""
    if endpoint.own is not None:
        return principal.org
    if endpoint.platform:
        return PLATFORM
    if (named := request.match_info.get("org")) is not None:
        if not KEY.match(named):
            raise NotFound(f"there is no organization {named[:80]!r}")
        return named
    named = request.query.get("org", request.headers.get("X-Millrace-Org"))
    if named is None:
        return principal.default_org
    return EVERY_ORG if named == EVERY_ORG and endpoint.every_org else org_of(named)


def _take_address(endpoint: Endpoint, call: Call[Any, Any]) -> None:
    """Check the path's parts and decode the query string."""
    _check_path(call)
    if endpoint.query is not None:
        # A parameter without a value is as good as none.
        given = {name: value for name, value in call.request.query.items() if value}
        try:
            call.query = msgspec.convert(given, endpoint.query, strict=False)
        except msgspec.ValidationError as error:
            raise misfit(error, endpoint.query) from error


def _check_path(call: Call[Any, Any]) -> None:
    for name, value in call.path.items():
        if PARTS[name] is Key and not KEY.match(value):
            raise NotFound(f"there is nothing with the {name} {value[:80]!r}")
        try:
            msgspec.convert(value, PARTS[name])
        except msgspec.ValidationError as error:
            problem = Problem(name, str(error))
            raise Invalid(f"{name} in the path does not fit: {error}", errors=(problem,)) from error


async def _handled(endpoint: Endpoint, call: Call[Any, Any]) -> web.StreamResponse:
    """Decode a call, call the handler, and answer with its result."""
    _take_address(endpoint, call)
    if endpoint.takes_body and endpoint.body is not Streamed:
        await _take_body(endpoint, call)
    returned = await endpoint.handler(call)
    if isinstance(returned, web.StreamResponse):
        return returned
    answer = returned if isinstance(returned, Answer) else Answer(body=returned)
    status = answer.status or next(iter(endpoint.answers))
    headers = dict(answer.headers) if answer.tag is None else answer.headers | {"ETag": f'"{answer.tag}"'}
    if answer.location is not None:
        headers["Location"] = answer.location
    if endpoint.answers[status] is None:
        return web.Response(status=status, headers=headers)
    return json_response(answer.body, status=status, headers=headers)


async def _take_body(endpoint: Endpoint, call: Call[Any, Any]) -> None:
    raw = await body_of(call.request, endpoint.body_limit or JSON_LIMIT)
    if endpoint.body is None:
        return
    if not raw:
        call.body = None if endpoint.body is Any else fitted({}, endpoint.body)
    else:
        call.body = await aside(decode, raw, endpoint.body, size=len(raw))


async def _recorded(endpoint: Endpoint, call: Call[Any, Any], handle: Callable[[], Awaitable[R]]) -> R:
    """Handle a call and have its audit on disk before it is answered, however it ends; not where that changed nothing."""
    if endpoint.audit is None:
        return await handle()
    recording: list[asyncio.Task[None]] = []

    def record(outcome: str = "ok") -> None:
        if not recording:
            said = _audited(endpoint, call, outcome)
            recording.append(asyncio.create_task(call.gateway.trail.publish(said, org=call.caller.org)))

    call.record = record
    outcome = "error"
    try:
        response = await handle()
        outcome = "ok"
    except MillraceError as error:
        outcome = error.kind
        raise
    finally:
        if not call.unchanged:
            record(outcome)
        if recording:
            await recording[0]
    return response


def _audited(endpoint: Endpoint, call: Call[Any, Any], outcome: str) -> Audited:
    action = endpoint.audit
    if action is None:
        raise TypeError(f"{endpoint.name} has no audit")
    noted = dict(call.notes)
    if action.target is None:
        target = noted.pop("target", "")
    elif action.target in call.path:
        target = call.path[action.target]
    else:
        target = str(getattr(getattr(call, "body", None), action.target, ""))
    return Audited(
        category=action.category,
        verb=call.verb or action.verb,
        actor=call.caller.actor,
        target=storable(target)[:500],
        outcome=outcome,
        remote=call.caller.remote,
        detail=noted,
    )


async def delegated(
    outer: Call[Any, Any],
    endpoint: Endpoint,
    *,
    path: Mapping[str, str] | None = None,
    query: Mapping[str, Any] | None = None,
    body: Any = None,
    handler: Callable[[Any], Awaitable[Any]] | None = None,
) -> Any:
    """Carry out a call of an endpoint that `outer` stands for: authorized, checked and audited as if it had come by itself.

    Its parts are of JSON types, and checked as text is. `handler` takes the place of the endpoint's own where that one reads its
    body from the request, or writes to it. Returns what the handler does; raises what the endpoint's caller would be answered.
    """
    gateway, request, org, principal = outer.gateway, outer.request, outer.caller.org, outer.caller.principal
    if principal is None:
        raise TypeError(f"{endpoint.name} has to know its caller")
    call: Call[Any, Any] = Call(gateway, outer.caller, request)
    call.path = path or {}
    for name, value in call.path.items():
        check(value, name)
    try:
        authorize(principal, endpoint, org, call.path)
    except (PermissionDenied, NotFound) as error:
        denied(gateway, request, principal.actor, org=org, outcome=error.kind, reason=endpoint.name)
        raise
    call.caller = msgspec.structs.replace(outer.caller, is_platform=principal.acts_for_platform(endpoint.role))
    _check_path(call)
    if endpoint.query is not None:
        call.query = fitted(query or {}, endpoint.query)
    if handler is None and endpoint.takes_body and endpoint.body is not None:
        call.body = fitted({} if body is None else body, endpoint.body)
    elif body is not None:
        call.body = body
    chosen = handler or endpoint.handler
    return await _recorded(endpoint, call, lambda: chosen(call))
