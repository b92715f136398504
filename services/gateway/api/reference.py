"""/openapi.json and /docs: the API as its endpoints declare it, for programs and for people. No key needed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import msgspec
from aiohttp import web

from services.gateway.api.document import document
from services.gateway.api.document_page import page
from services.gateway.api.endpoint import Call, Endpoint, Reply, endpoint
from services.gateway.api.headers import shrunk, takes_gzip

# The page has no script and loads nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


class Reference:
    """The document and the page, each made when it is first asked for, and likewise in gzip: strangers ask for them."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self.endpoints = endpoints

    @cached_property
    def document(self) -> tuple[bytes, bytes]:
        """Return the OpenAPI document as JSON, as it is and in gzip."""
        made = msgspec.json.encode(document(self.endpoints))
        return made, shrunk(made)

    @cached_property
    def page(self) -> tuple[bytes, bytes]:
        """Return the page as HTML, as it is and in gzip."""
        made = page(document(self.endpoints)).encode()
        return made, shrunk(made)


REFERENCE = web.AppKey("reference", Reference)


@endpoint("GET", "/openapi.json", role=None, answers={200: dict[str, Any]})
async def get_openapi(call: Call[None, None]) -> web.Response:
    """Send this API's OpenAPI 3.1 document."""
    return _sent(call.request, call.request.app[REFERENCE].document, {"Content-Type": "application/json"})


@endpoint("GET", "/docs", role=None, answers={200: Reply(str, media="text/html")})
async def get_docs(call: Call[None, None]) -> web.Response:
    """Send a page that describes this API."""
    headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": POLICY}
    return _sent(call.request, call.request.app[REFERENCE].page, headers)


def _sent(request: web.Request, made: tuple[bytes, bytes], headers: dict[str, str]) -> web.Response:
    in_gzip = takes_gzip(request)
    headers |= {"Vary": "Accept-Encoding", "Cache-Control": "no-cache"} | ({"Content-Encoding": "gzip"} if in_gzip else {})
    return web.Response(body=made[in_gzip], headers=headers)


ENDPOINTS = (get_openapi, get_docs)
