"""Content that is answered as it is stored: streamed in bounded memory, known by its hash."""

from __future__ import annotations

import msgspec
import structlog
from aiohttp import web

from services.gateway.domain import tag_of
from shared.blobs import Blobs
from shared.errors import MillraceError
from shared.pull import StreamError

_log = structlog.get_logger()


class Content(msgspec.Struct, frozen=True):
    """The content to send: its hexadecimal SHA-256, size in bytes, and media type."""

    sha256: str
    size: int
    type: str = "application/octet-stream"


async def sent(request: web.Request, content: Content, stored: Blobs | None, inline: bytes | None = None) -> web.StreamResponse:
    """Answer a GET or HEAD with the content of `stored`, or with `inline`; 304 to clients that have it.

    Raises `NotFound` where it is gone.
    """
    headers = {"ETag": f'"{content.sha256}"'}
    if tag_of(request.headers.get("If-None-Match", "")) == content.sha256:
        return web.Response(status=304, headers=headers)
    if stored is None:
        return web.Response(body=inline, headers=headers, content_type=content.type)
    response = web.StreamResponse(headers=headers)
    response.content_type = content.type
    response.content_length = content.size
    if not content.size:
        await response.prepare(request)
        return response
    chunks = stored.get(content.sha256)
    # Before the answer has begun: missing content is still a 404.
    first = await anext(chunks)
    await response.prepare(request)
    if request.method == "HEAD":
        await chunks.aclose()
        return response
    try:
        await response.write(first)
        async for chunk in chunks:
            await response.write(chunk)
    except (MillraceError, StreamError) as error:
        # Too late for another status: a connection that breaks off is how the reader learns that this is not all.
        _log.warning("content.broken_off", path=request.path, reason=str(error))
        if request.transport is not None:
            request.transport.abort()
    finally:
        await chunks.aclose()
    return response
