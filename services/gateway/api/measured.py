"""The durations of requests by endpoint: rate, errors and duration (RED) follow from one histogram.

Named as OpenTelemetry's semantic conventions for HTTP metrics have it (opentelemetry.io/docs/specs/semconv/http/http-metrics):
`http.server.request.duration` in seconds with `http.request.method` and `http.route`. So that an endpoint has a few series, of the
status only its class is kept (`http_response_status_class`: `2xx` …; empty where the client went away before there was an answer).
"""

from __future__ import annotations

import functools
import re
from time import perf_counter

from aiohttp import web
from prometheus_client import Histogram

from shared.health import Health
from shared.http import Next
from shared.metrics import DURATIONS

# The methods of RFC 9110 and RFC 5789; any other is `_OTHER`, as the conventions have it.
METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
# A part of a route with the expression that it has to match.
_PATTERN = re.compile(r"\{(\w+):[^}]*\}")


def template_of(route: str) -> str:
    """Return a route without the expressions that its parts have to match."""
    return _PATTERN.sub(r"{\1}", route)


class RequestDurations:
    """Measures requests until their answer ends: of a stream that is as long as it lasts."""

    def __init__(self, health: Health) -> None:
        self._durations = Histogram(
            "http_server_request_duration_seconds",
            "Duration of HTTP server requests, by the template of the route.",
            ("http_request_method", "http_route", "http_response_status_class"),
            buckets=DURATIONS,
            registry=health.registry,
        )

    def of(self, route: str, handler: Next) -> Next:
        """Return `handler`, measured under the template of its route: a raw path is never a label."""
        template = template_of(route)
        observers: dict[tuple[str, int], Histogram] = {}

        @functools.wraps(handler)
        async def measured(request: web.Request) -> web.StreamResponse:
            began = perf_counter()
            status = 0
            try:
                response = await handler(request)
                status = response.status
                return response
            except web.HTTPException as error:
                status = error.status
                raise
            finally:
                key = (request.method, status // 100)
                observer = observers.get(key)
                if observer is None:
                    method = request.method if request.method in METHODS else "_OTHER"
                    name = f"{status // 100}xx" if status else ""
                    observer = self._durations.labels(method, template, name)
                    if method == request.method:
                        observers[key] = observer
                observer.observe(perf_counter() - began)

        return measured
