"""/api/v1/logs/export: all messages of a search, page by page, in bounded memory."""

from __future__ import annotations

import asyncio
import csv
import io
from typing import Annotated, Literal

import msgspec
import structlog
from aiohttp import web

from services.gateway.api.endpoint import Call, Example, Reply, endpoint
from services.gateway.api.headers import takes_gzip
from services.gateway.api.logs import Q, Saved, Since, Until, asked, of_times
from services.gateway.api.sse import SLOW
from shared.errors import Malformed, NotFound, Unavailable
from shared.questions import MOST_ITEMS, Page
from shared.questions.logs import LogItem, LogPage, Search
from shared.values import Opaque

# Seconds between tries for a page, and how many there are: a service that is restarted is back by then.
PAUSE = 1.0
TRIES = 10
NDJSON, CSV = "application/x-ndjson", "text/csv"
COLUMNS = (
    "time", "level", "service", "type", "org", "workflow", "run", "message", "data", "stream", "seq", "line", "id",
    "correlation_id", "causation_id",
)  # fmt: skip
CURSOR = "next_cursor"
# A cell that begins so is a formula to spreadsheets, and anybody's webhook may hold one.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

_log = structlog.get_logger()


class ExportQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The messages of a search, oldest first, as lines of JSON or of CSV."""

    q: Q = ""
    saved: Saved | None = None
    since: Since | None = msgspec.field(default=None, name="from")
    until: Until | None = msgspec.field(default=None, name="to")
    order: Literal["asc", "desc"] = "asc"
    format: Literal["ndjson", "csv"] = "ndjson"
    cursor: (
        Annotated[Opaque, msgspec.Meta(description="The last `next_cursor` that was received: what is behind it comes.")] | None
    ) = None


class ExportedItem(LogItem, frozen=True, kw_only=True):
    """A line of an export; some have the cursor with which to go on behind them."""

    next_cursor: str | None = None


@endpoint(
    "GET",
    "/api/v1/logs/export",
    role="viewer",
    answers={200: Reply(ExportedItem, media=NDJSON, other_media=(CSV,))},
    errors=(Malformed, NotFound),
    every_org=True,
    example=Example(query={"q": "level:error", "from": "now-1h"}),
)
async def export_logs(call: Call[ExportQuery, None]) -> web.StreamResponse:
    """Send all messages of a search, oldest first, a line each. The connection breaks off where it does not end well.

    Every thousandth line or so has a `next_cursor`: with it as `cursor`, another call goes on behind that line. Compressed for
    clients that accept gzip.
    """
    with call.gateway.watching.admitted(call.caller.org):
        page = await _page(call, call.query.cursor)
        response = web.StreamResponse(headers={"Vary": "Accept-Encoding"})
        response.content_type = CSV if call.query.format == "csv" else NDJSON
        response.charset = "utf-8"
        if takes_gzip(call.request):
            response.enable_compression(web.ContentCoding.gzip)
        await response.prepare(call.request)
        if call.request.method != "HEAD":
            await _write_all(call, response, page)
    return response


async def _write_all(call: Call[ExportQuery, None], response: web.StreamResponse, page: LogPage) -> None:
    lines = _csv if call.query.format == "csv" else _ndjson
    try:
        if lines is _csv and call.query.cursor is None:
            await response.write(_cells([[*COLUMNS, CURSOR]]))
        while True:
            async with asyncio.timeout(SLOW):
                await response.write(lines(page))
            if page.next_cursor is None:
                return
            page = await _tried(call, page.next_cursor)
    except (Unavailable, TimeoutError) as error:
        # Too late for another status: a connection that breaks off is how the reader learns that this is not all.
        _log.warning("export.broken_off", reason=str(error) or "the client is too slow")
        if call.request.transport is not None:
            call.request.transport.abort()
    except ConnectionError:
        return


async def _tried(call: Call[ExportQuery, None], cursor: str) -> LogPage:
    for _ in range(TRIES):
        try:
            return await _page(call, cursor)
        except Unavailable:
            await asyncio.sleep(PAUSE)
    return await _page(call, cursor)


async def _page(call: Call[ExportQuery, None], cursor: str | None) -> LogPage:
    return await asked(call, Search(**of_times(call), order=call.query.order, page=Page(limit=MOST_ITEMS, cursor=cursor)))


def _ndjson(page: LogPage) -> bytes:
    lines = [msgspec.json.encode(item) for item in page.items]
    if lines and page.next_cursor is not None:
        lines[-1] = lines[-1][:-1] + b',"%s":%s}' % (CURSOR.encode(), msgspec.json.encode(page.next_cursor))
    return b"".join(line + b"\n" for line in lines)


def _csv(page: LogPage) -> bytes:
    rows = [[_cell(item, column) for column in COLUMNS] + [""] for item in page.items]
    if rows and page.next_cursor is not None:
        rows[-1][-1] = page.next_cursor
    return _cells(rows)


def _cell(item: LogItem, column: str) -> str:
    value = getattr(item, column)
    if column == "data":
        return msgspec.json.encode(value).decode()
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _cells(rows: list[list[str]]) -> bytes:
    made = io.StringIO()
    csv.writer(made).writerows(rows)
    return made.getvalue().encode("utf-8", "replace")


ENDPOINTS = (export_logs,)
