"""Traces of requests: each is a span, of a trace of its caller's or of a new one.

A caller with a key is believed (or as `MILLRACE_TRACE_PARENTS` says): the request is a part of its trace, and recorded if that is.
What strangers name is linked to, and decides nothing. Neither path nor query are told: the id of a webhook's address may be
all that protects it.
"""

from __future__ import annotations

from aiohttp import web

from services.gateway.api.endpoint import Endpoint
from services.gateway.api.measured import METHODS, template_of
from services.gateway.parts import Gateway
from shared import tracing
from shared.http import Next
from shared.traceparent import only

ROOT: web.RequestKey[tracing.Root] = web.RequestKey("root")
# The draft "Trace Context HTTP Response Headers Format" of the W3C.
HEADER = "traceresponse"
# Asked for by programs, every few seconds.
_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})


def traced(endpoint: Endpoint, handler: Next, gateway: Gateway) -> Next:
    """Return `handler`, traced where this process traces; else as it is."""
    if not tracing.is_on() or endpoint.path in _PROBES:
        return handler
    template = template_of(endpoint.path)
    adopts = gateway.trace_parents == "all"

    async def within(request: web.Request) -> web.StreamResponse:
        method = request.method if request.method in METHODS else "_OTHER"
        attributes: dict[str, tracing.Value] = {
            "http.request.method": method,
            "http.route": template,
            "url.scheme": "https" if gateway.public_url.startswith("https:") else "http",
        }
        root = tracing.Root(f"{method} {template}", attributes, only(request.headers.getall("traceparent", ())))
        request[ROOT] = root
        if adopts:
            root.adopt()
        moved: web.HTTPException | None = None
        with tracing.within(root):
            try:
                response = await handler(request)
            except web.HTTPException as error:
                moved = error
            tracing.current()  # it decides, where nothing has
            status = response.status if moved is None else moved.status
            root.attributes["http.response.status_code"] = status
            if status >= 500 and root.span is not None:
                root.span.fail(str(status))
        if moved is not None:
            raise moved
        return response

    return within


def identified(gateway: Gateway, org: str) -> None:
    """Note for whom a request is; its caller has a key."""
    root = tracing.root()
    if root is not None:
        root.attributes["millrace.organization"] = org
        if gateway.trace_parents == "keys":
            root.adopt()


def told(request: web.Request) -> str | None:
    """Return the header by which an answer names its span; None where it has none."""
    root = request.get(ROOT)
    if root is None:
        return None
    span = root.span or tracing.current()
    return None if span is None else str(span.context)
