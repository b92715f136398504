"""Content that is answered as it is stored: streamed in bounded memory, whole or a part of it, known by its hash."""

from __future__ import annotations

import re

import msgspec
import structlog
from aiohttp import web

from services.gateway.api.endpoint import ETAG, Header, Reply
from services.gateway.domain import tags_of
from shared.blobs import Blobs
from shared.errors import MillraceError, NotFound, RangeNotSatisfiable
from shared.pull import StreamError

# One range of bytes (RFC 9110, 14.1.2): from, to; or so many at the end. Several are answered by the whole, as any server may.
_RANGE = re.compile(r"bytes=[ \t]*(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))[ \t]*", re.ASCII | re.IGNORECASE)
RANGE = Header("Range", "One range of bytes, such as `bytes=0-1023`; several are answered by the whole.")
IF_RANGE = Header("If-Range", "The tag of the content that the range is of: the whole is sent where it is another by now.")
_WHOLE = Header("Accept-Ranges", "`bytes`: a range of it may be asked for.")
_PART = Header("Content-Range", "Which bytes these are, and of how many.")
# The answers of an endpoint that sends stored bytes.
CONTENT = {
    200: Reply(bytes, headers=(ETAG, _WHOLE), media="application/octet-stream"),
    206: Reply(bytes, headers=(ETAG, _PART), media="application/octet-stream"),
    304: None,
}
_log = structlog.get_logger()


class Content(msgspec.Struct, frozen=True):
    """The content to send: its hexadecimal SHA-256, size in bytes, and media type; `in_parts`: whether ranges of it are given."""

    sha256: str
    size: int
    type: str = "application/octet-stream"
    in_parts: bool = True


def part_of(range_: str, size: int) -> tuple[int, int] | None:
    """Return the first byte and the number of bytes that a Range header asks for of so many; None for what is no single range.

    Raises `RangeNotSatisfiable`.
    """
    found = _RANGE.fullmatch(range_)
    if found is None:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        start, end = max(0, size - int(suffix)), size
    else:
        start, end = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < start:
            return None
    if start >= end:
        raise RangeNotSatisfiable(f"{range_[:60]}: the content has {size} bytes", size=size)
    return start, end - start


async def sent(request: web.Request, content: Content, stored: Blobs | None, inline: bytes | None = None) -> web.StreamResponse:
    """Answer a GET or HEAD with the content of `stored`, or with `inline`; 304 to clients that have it.

    Of stored content a single range is given as 206, unless If-Range holds another tag. Raises `NotFound` where it is gone,
    `RangeNotSatisfiable`.
    """
    headers = {"ETag": f'"{content.sha256}"'}
    if _has(request.headers.get("If-None-Match", ""), content.sha256):
        return web.Response(status=304, headers=headers)
    if stored is None:
        return web.Response(body=inline, headers=headers, content_type=content.type)
    if content.in_parts:
        headers["Accept-Ranges"] = "bytes"
    part = _wanted(request, content)
    start, length = (0, content.size) if part is None else part
    response = web.StreamResponse(status=200 if part is None else 206, headers=headers)
    response.content_type = content.type
    response.content_length = length
    if part is not None:
        response.headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{content.size}"
    if not length or request.method == "HEAD":
        if length and await stored.stat(content.sha256) is None:
            raise NotFound(f"the content {content.sha256[:12]}… is not there any more")
        await response.prepare(request)
        return response
    chunks = stored.get(content.sha256, start=start, length=length)
    try:
        # Before the answer has begun: missing content is still a 404.
        first = await anext(chunks)
        await response.prepare(request)
        await response.write(first)
        async for chunk in chunks:
            await response.write(chunk)
    except (MillraceError, StreamError) as error:
        if not response.prepared:
            raise
        # Too late for another status: a connection that breaks off is how the reader learns that this is not all.
        _log.warning("content.broken_off", path=request.path, reason=str(error))
        if request.transport is not None:
            request.transport.abort()
    finally:
        await chunks.aclose()
    return response


def _wanted(request: web.Request, content: Content) -> tuple[int, int] | None:
    """Return the part that a GET asks for; None for the whole."""
    range_, condition = request.headers.get("Range"), request.headers.get("If-Range")
    if range_ is None or not content.in_parts or request.method != "GET":
        return None
    # A date, or a weak tag, is never known to be of the same content.
    if condition is not None and tags_of(condition, weak=False) != {content.sha256}:
        return None
    return part_of(range_, content.size)


def _has(if_none_match: str, sha256: str) -> bool:
    """Return whether a client has the content already."""
    return if_none_match.strip() == "*" or sha256 in (tags_of(if_none_match, weak=True) or ())
