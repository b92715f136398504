"""Routes of resources that are not declared yet, as endpoints; goes with them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from services.gateway.api.access import Caller
from services.gateway.api.endpoint import Audit, Endpoint
from services.gateway.api.served import CALL
from services.gateway.parts import Gateway

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def audited(category: str, verb: str, target: str | None = None) -> Callable[[Handler], Handler]:
    """Record every call of the handler below."""

    def decorate(handler: Handler) -> Handler:
        handler.audit = Audit(category, verb, target)  # type: ignore[attr-defined]
        return handler

    return decorate


def every_org(handler: Handler) -> Handler:
    """Allow `?org=*` for the handler below."""
    handler.every_org = True  # type: ignore[attr-defined]
    return handler


def note(request: web.Request, **fields: str) -> None:
    """Add to what the audit of this request will say."""
    request[CALL].note(**fields)


def gateway_of(request: web.Request) -> tuple[Gateway, Caller]:
    """Return the parts, and the caller."""
    return request[CALL].gateway, request[CALL].caller


def meaning(request: web.Request, _org: str) -> tuple[Gateway, Caller]:
    """Return the parts, and the caller with the organization that the path names."""
    return gateway_of(request)


def endpoint_of(route: web.RouteDef) -> Endpoint:
    """Return a route as an endpoint."""
    handler: Any = route.handler
    return Endpoint(
        method=route.method,
        path="/api/v1" + route.path,
        handler=handler,
        role="viewer" if route.method == "GET" else "developer",
        name=handler.__name__,
        doc=handler.__doc__ or "",
        answers={200: dict[str, Any]},
        body=web.Request,
        audit=getattr(handler, "audit", None),
        every_org=getattr(handler, "every_org", False),
    )
