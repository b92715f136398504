"""/asyncapi.json: what travels on the bus, as the declarations of messages and questions have it. No key needed."""

from __future__ import annotations

import functools
from typing import Any

import msgspec
from aiohttp import web

from services.gateway.api.endpoint import Call, endpoint
from shared import asyncapi


@functools.cache
def _document() -> bytes:
    return msgspec.json.encode(asyncapi.document())


@endpoint("GET", "/asyncapi.json", role=None, answers={200: dict[str, Any]})
async def get_asyncapi(_call: Call[None, None]) -> web.Response:
    """Send the AsyncAPI 3.0 document of all messages, questions and commands."""
    return web.Response(body=_document(), content_type="application/json")


ENDPOINTS = (get_asyncapi,)
