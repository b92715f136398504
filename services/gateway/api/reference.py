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
from services.gateway.api.headers import Shrunk

# The page has no script and loads nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


class Reference:
    """The document and the page, each made when it is first asked for: strangers ask for them."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self.endpoints = endpoints

    @cached_property
    def document(self) -> Shrunk:
        """Return the OpenAPI document as JSON."""
        return Shrunk(msgspec.json.encode(document(self.endpoints)))

    @cached_property
    def page(self) -> Shrunk:
        """Return the page as HTML."""
        return Shrunk(page(document(self.endpoints)).encode())


REFERENCE = web.AppKey("reference", Reference)


@endpoint("GET", "/openapi.json", role=None, answers={200: dict[str, Any]})
async def get_openapi(call: Call[None, None]) -> web.Response:
    """Send this API's OpenAPI 3.1 document."""
    return call.request.app[REFERENCE].document.sent(call.request, {"Cache-Control": "no-cache"}, media="application/json")


@endpoint("GET", "/docs", role=None, answers={200: Reply(str, media="text/html")})
async def get_docs(call: Call[None, None]) -> web.Response:
    """Send a page that describes this API."""
    headers = {"Cache-Control": "no-cache", "Content-Security-Policy": POLICY}
    return call.request.app[REFERENCE].page.sent(call.request, headers, media="text/html; charset=utf-8")


ENDPOINTS = (get_openapi, get_docs)
