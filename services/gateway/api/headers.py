"""Headers that every answer has: for browsers, for caches, for pages of other origins, and when the process is about to end."""

from __future__ import annotations

import gzip
import re
from collections.abc import Awaitable, Callable

from aiohttp import web

from services.gateway.api.traced import HEADER, told
from services.gateway.domain import always_of
from services.gateway.limits import LIMITS, headers_of
from services.gateway.parts import Gateway
from shared import tracing
from shared.errors import NotFound

# Bytes from which an answer is worth compressing: below it is a packet or three.
LARGE = 4096
_SHRINKABLE = frozenset({"application/json", "text/plain", "text/html"})
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_TAKEN = "Authorization, Content-Type, If-Match, If-None-Match, Idempotency-Key, Last-Event-ID, X-Millrace-Org, traceparent"
_SHOWN = (
    "ETag, Location, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Millrace-Change, X-Request-Id, traceresponse"
)
# Seconds for which a browser keeps the answer to its question what it may send.
_KEPT = 600
# Origins whose pages may read this answer, besides those of the settings.
READERS: web.RequestKey[frozenset[str]] = web.RequestKey("readers")
# What pages that show a form may send to it, and for how long a browser keeps that: a form may name others at any time.
_FORM = re.compile(r"/api/v1/forms/([^/]+)/(?:fields|submissions|submission)")
_FORM_METHODS, _FORM_TAKEN, _FORM_KEPT = "GET, HEAD, POST", "Content-Type, Idempotency-Key", 60

OnPrepare = Callable[[web.Request, web.StreamResponse], Awaitable[None]]


def completing(gateway: Gateway) -> OnPrepare:
    """Return what completes the headers of an answer before they are sent; those that its handler has set stay."""
    always = list(always_of(gateway.public_url).items())
    health, origins = gateway.health, gateway.cors_origins

    async def complete(request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        for name, value in always:
            if name not in headers:
                headers[name] = value
        if tracing.is_on() and (span := told(request)) is not None:
            headers[HEADER] = span
        if "Cache-Control" not in headers:
            # A tag is for who asks again; a cache that others share keeps neither.
            headers["Cache-Control"] = "private, no-cache" if "ETag" in headers else "no-store"
        readers = request.get(READERS)
        if readers is not None or (origins and _is_shared(request)):
            headers.add("Vary", "Origin")
            origin = request.headers.get("Origin")
            if origin is not None and (origin in origins or origin in (readers or ())):
                headers["Access-Control-Allow-Origin"] = origin
                headers["Access-Control-Expose-Headers"] = _SHOWN
        if limits := request.get(LIMITS):
            headers.update(headers_of(limits))
        if not health.started:
            # Whoever keeps the connection takes its next request elsewhere.
            response.force_close()
            if request.version.minor:
                headers["Connection"] = "close"

    return complete


async def preflight(gateway: Gateway, request: web.Request) -> web.Response | None:
    """Return the answer to a browser that asks what a page of another origin may send; None for any other request.

    It never has a key, and is told nothing but what every page of a known origin is: one that may use the API, or one that may
    show the form that is asked about.
    """
    asked = request.headers
    if request.method != "OPTIONS" or "Access-Control-Request-Method" not in asked:
        return None
    origin = asked.get("Origin", "")
    if origin in gateway.cors_origins:
        return _allowed(_METHODS, _TAKEN, _KEPT)
    if (of := _FORM.fullmatch(request.path)) is None or not await _may_show(gateway, of[1], origin):
        return None
    told = _allowed(_FORM_METHODS, _FORM_TAKEN, _FORM_KEPT)
    told.headers["Access-Control-Allow-Origin"] = origin
    told.headers["Vary"] = "Origin"
    return told


async def _may_show(gateway: Gateway, form: str, origin: str) -> bool:
    """Return whether pages of an origin may show a form. Raises `Unavailable`."""
    try:
        # What became of one that was sent is told when it is closed, too.
        return origin in (await gateway.forms.form(form, closed=True)).spec.embed_on
    except NotFound:
        return False


def _allowed(methods: str, taken: str, kept: int) -> web.Response:
    headers = {
        "Access-Control-Allow-Methods": methods,
        "Access-Control-Allow-Headers": taken,
        "Access-Control-Max-Age": str(kept),
    }
    return web.Response(status=204, headers=headers)


def takes_gzip(request: web.Request) -> bool:
    """Return whether a client takes answers in gzip (RFC 9110, section 12.5.3)."""
    for one in request.headers.get("Accept-Encoding", "").lower().split(","):
        coding, _, weight = one.partition(";")
        if coding.strip() in {"gzip", "*"}:
            return weight.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False


def shrink(request: web.Request, response: web.StreamResponse) -> None:
    """Have a large answer to a question compressed where the client takes that.

    Answers to anything but GET are left alone: a secret that is shown once is in one of those, and how far it shrinks beside what
    somebody else has chosen could tell of it. So are answers with a tag, which is of the bytes as they are.
    """
    if request.method != "GET" or not isinstance(response, web.Response) or response.prepared or "ETag" in response.headers:
        return
    body = response.body
    if not isinstance(body, bytes) or len(body) < LARGE or response.content_type not in _SHRINKABLE:
        return
    response.headers.add("Vary", "Accept-Encoding")
    if takes_gzip(request):
        response.enable_compression(web.ContentCoding.gzip)


class Shrunk:
    """A body that is made once and given to many, as it is or in gzip."""

    def __init__(self, body: bytes) -> None:
        self._plain = body
        self._in_gzip = gzip.compress(body, mtime=0)

    def sent(self, request: web.Request, headers: dict[str, str], *, media: str) -> web.Response:
        """Return the answer to a request; `media` is its type, in whole."""
        in_gzip = takes_gzip(request)
        headers |= {"Content-Type": media, "Vary": "Accept-Encoding"} | ({"Content-Encoding": "gzip"} if in_gzip else {})
        return web.Response(body=self._in_gzip if in_gzip else self._plain, headers=headers)


def _is_shared(request: web.Request) -> bool:
    """Return whether pages of other origins may use a path: the API and its description, neither webhooks nor pages for people."""
    path = request.rel_url.raw_path
    return path.startswith("/api/") or path == "/openapi.json"
