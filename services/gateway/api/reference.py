"""/openapi.json and /docs: the API as its endpoints declare it, for programs and for people. No key needed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import msgspec
from aiohttp import web

from services.gateway.api.document import document
from services.gateway.api.endpoint import Call, Endpoint, Reply, endpoint
from services.gateway.api.page import page

# The page has no script and loads nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


class Reference:
    """The document and the page, each made when it is first asked for."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = endpoints

    @cached_property
    def document(self) -> bytes:
        """Return the OpenAPI document as JSON."""
        return msgspec.json.encode(document(self._endpoints))

    @cached_property
    def page(self) -> str:
        """Return the page as HTML."""
        return page(document(self._endpoints))


REFERENCE = web.AppKey("reference", Reference)


@endpoint("GET", "/openapi.json", role=None, answers={200: dict[str, Any]})
async def get_openapi(call: Call[None, None]) -> web.Response:
    """Send this API's OpenAPI 3.1 document."""
    return web.Response(body=call.request.app[REFERENCE].document, content_type="application/json")


@endpoint("GET", "/docs", role=None, answers={200: Reply(str, media="text/html")})
async def get_docs(call: Call[None, None]) -> web.Response:
    """Send a page that describes this API."""
    return web.Response(
        text=call.request.app[REFERENCE].page,
        content_type="text/html",
        headers={"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"},
    )


ENDPOINTS = (get_openapi, get_docs)
