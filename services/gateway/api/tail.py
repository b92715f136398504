"""/api/v1/logs/tail: what is archived from now on, as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated, Literal

import msgspec
import structlog
from aiohttp import web

from services.gateway.api.endpoint import LAST_EVENT_ID, Call, Example, Reply, endpoint
from services.gateway.api.logs import Q, Saved, asked, of_rows
from services.gateway.api.sse import HEADERS, EventClient, event
from shared.errors import Malformed, NotFound, Unavailable
from shared.questions.logs import TailLogs, TailPage
from shared.values import Opaque

# Seconds between two looks.
LOOKS = 0.5
# Seconds after which a client for which nothing has come gets its place, so that it need not begin far behind when it comes back.
PLACES = 10.0

_log = structlog.get_logger()


class TailQuery(msgspec.Struct, frozen=True):
    """The messages that are followed."""

    q: Q = ""
    saved: Saved | None = None
    after: Annotated[Opaque, msgspec.Meta(description="As `Last-Event-ID`.")] | None = None


class TailEvent(msgspec.Struct, frozen=True):
    """One event of a tail: `data` is a message (`row`), or `{"count"}` of those that were passed over (`dropped`), as JSON."""

    data: str
    event: Literal["row", "place", "dropped", "error"]
    id: str = ""


@endpoint(
    "GET",
    "/api/v1/logs/tail",
    role="viewer",
    answers={200: Reply(TailEvent, media="text/event-stream")},
    headers=(LAST_EVENT_ID,),
    errors=(Malformed, NotFound),
    every_org=True,
    example=Example(query={"q": "level:error"}),
)
async def tail_logs(call: Call[TailQuery, None]) -> web.StreamResponse:
    """Send each message that is archived from now on, or after `Last-Event-ID`, and matches, as a `row`.

    At first, and now and then, comes a `place`: its id, as that of a row, is where to go on. A client that is too far behind to be
    given all is told how many messages were passed over, in `dropped`.
    """
    gateway, request = call.gateway, call.request
    position = request.headers.get("Last-Event-ID") or call.query.after
    with gateway.watching.admitted(call.caller.org):
        page = await asked(call, _question(call, position))
        response = web.StreamResponse(headers=HEADERS)
        # A client that is gone needs no answer.
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            await _follow(call, EventClient(request, response), page)
        return response


async def _follow(call: Call[TailQuery, None], client: EventClient, page: TailPage) -> None:
    loop, never = asyncio.get_running_loop(), asyncio.Event()
    complained, told, told_at = False, "", 0.0
    while not call.gateway.watching.closing:
        if page.dropped:
            await client.send("dropped", "", {"count": page.dropped})
        if page.items:
            # Sent together, and taken before more is asked for: nothing is kept for a slow client.
            await client.write(b"".join(event("row", one.id, one.item) for one in page.items))
            told = page.items[-1].id
        if page.position != told and (page.dropped or loop.time() - told_at >= PLACES):
            await client.send("place", page.position, {})
            told, told_at = page.position, loop.time()
        if not page.more:
            await client.quiet(never, LOOKS)
        try:
            page = await call.ask(_question(call, page.position))
            complained = False
        except Unavailable as error:
            page = TailPage(items=[], position=page.position, dropped=0, more=False)
            if not complained:
                complained = True
                _log.warning("tail.waits", reason=error.detail)


def _question(call: Call[TailQuery, None], position: str | None) -> TailLogs:
    return TailLogs(**of_rows(call.caller, call.query), position=position)


ENDPOINTS = (tail_logs,)
