"""/api/v1/runs/{id}/stream: a run as it goes on, as server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
import structlog
from aiohttp import web

from services.gateway.api.access import Caller
from services.gateway.api.endpoint import LAST_EVENT_ID, Call, Reply, endpoint
from services.gateway.api.sse import HEADERS, EventClient, event
from services.gateway.parts import Gateway
from shared.errors import Malformed, NotFound, Problem, Unavailable
from shared.questions.runs import LineView, ListLines, ListStates, RunStates, RunView
from shared.values import Opaque

# Seconds between looks at a silent run, and between tries while a service is away.
LOOKS = 10.0
PAUSE = 1.0
# Seconds between two looks at a busy run: its news of that time is sent together.
GATHER = 0.05
# Lines that are asked for at once.
LINES = 500
# Bytes of lines that are sent together: a slow client takes them within the time that it has for one event.
TOGETHER = 16 * 1024

_log = structlog.get_logger()


class StreamEvent(msgspec.Struct, frozen=True):
    """One event of a run's stream: `data` is a run (`state`, `end`) or a line of its output (`line`) as JSON."""

    data: str
    event: Literal["state", "line", "end", "error"]
    id: str = ""


class RunPosition(msgspec.Struct, frozen=True):
    """A client's position in a run: messages up to a sequence, lines up to a number, and whether the end was sent."""

    seq: int = 0
    line: int = 0
    over: bool = False

    @property
    def id(self) -> str:
        """Return it as the id of an event."""
        return f"{self.seq}.{self.line}" + (".end" if self.over else "")


class RunStreamQuery(msgspec.Struct, frozen=True):
    """From where on."""

    after: Annotated[Opaque, msgspec.Meta(description="As `Last-Event-ID`.")] | None = None


def place_of(id_: str | None, named: str = "Last-Event-ID") -> RunPosition:
    """Return the place of a client whose last event was `id_`, which it has `named` so. Raises `Malformed`."""
    if not id_:
        return RunPosition()
    seq, line, *over = id_.split(".")[:4] if "." in id_ else ("", "")
    if not (_is_number(seq) and _is_number(line) and over in ([], ["end"])):
        raise Malformed(f"this {named} was not given out by a run's stream", errors=(Problem(named, "malformed"),))
    return RunPosition(int(seq), int(line), bool(over))


@endpoint(
    "GET",
    "/api/v1/runs/{id}/stream",
    role="viewer",
    answers={200: Reply(StreamEvent, media="text/event-stream"), 204: None},
    headers=(LAST_EVENT_ID,),
    errors=(NotFound,),
)
async def stream_run(call: Call[RunStreamQuery, None]) -> web.StreamResponse:
    """Send a run's `state`s, `line`s and at last `end` as they come. Goes on after `Last-Event-ID`; 204 when that was the end."""
    gateway, caller, request = call.gateway, call.caller, call.request
    run = call.path["id"]
    given = request.headers.get("Last-Event-ID")
    place = place_of(given) if given else place_of(call.query.after, "after")
    with gateway.watching.watch(run, caller.org) as woken:
        first = await gateway.bus.ask(ListStates(org=caller.org, id=run, after=place.seq))
        if place.over:
            return web.Response(status=204)
        response = web.StreamResponse(headers=HEADERS)
        client = _Telling(request, response, place)
        # A client that is gone needs no answer.
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            await _write_states(gateway, caller, run, client, first, woken)
        return response


async def _write_states(
    gateway: Gateway, caller: Caller, run: str, client: _Telling, states: RunStates | None, woken: asyncio.Event
) -> None:
    """Send all that happens to a run until it has ended, or the client is gone, or this process is to end."""
    last: RunView | None = None
    complained = False
    while not gateway.watching.closing:
        pause = LOOKS
        # Before looking: news during the look wakes this client again.
        woken.clear()
        try:
            if states is None:
                states = await gateway.bus.ask(ListStates(org=caller.org, id=run, after=client.place.seq))
            for item in states.items:
                await client.state(item.seq, item.view)
                last = item.view
            if states.more:
                states = None
                continue
            await _write_lines(gateway, caller, run, client)
            if states.ended:
                # A client that resumes after the last state gets no other: the end shows it all the same.
                await client.end(last or await _last(gateway, caller, run))
                return
            complained = False
        except Unavailable as error:
            pause = PAUSE
            if not complained:
                complained = True
                _log.warning("stream.waits", run=run, reason=error.detail)
        states = None
        await client.quiet(woken, pause)
        await asyncio.sleep(GATHER)


async def _write_lines(gateway: Gateway, caller: Caller, run: str, client: _Telling) -> None:
    more = True
    while more:
        asked = ListLines(org=caller.org, id=run, after=client.place.line, limit=LINES, settled=True)
        page = await gateway.bus.ask(asked)
        more = page.next_cursor is not None
        # A client that takes nothing holds some bytes up, and no page of them.
        parts = client.encoded(page.items)
        del page
        for part in parts:
            await client.lines(*part)


async def _last(gateway: Gateway, caller: Caller, run: str) -> RunView:
    states = await gateway.bus.ask(ListStates(org=caller.org, id=run))
    while states.more:
        states = await gateway.bus.ask(ListStates(org=caller.org, id=run, after=states.items[-1].seq))
    return states.items[-1].view


class _Telling:
    """One client and its place. Every method raises ConnectionError when it is gone, or is cut off because it takes no bytes."""

    def __init__(self, request: web.Request, response: web.StreamResponse, place: RunPosition) -> None:
        self._client = EventClient(request, response)
        self.quiet = self._client.quiet
        self.place = place

    async def state(self, seq: int, view: RunView) -> None:
        await self._event("state", msgspec.structs.replace(self.place, seq=seq), view)

    def encoded(self, lines: Iterable[LineView]) -> list[tuple[int, bytes]]:
        """Return lines as they are sent, some together: each time the number of the last one, and the bytes."""
        parts, part, size = [], list[bytes](), 0
        for line in lines:
            part.append(event("line", msgspec.structs.replace(self.place, line=line.n).id, line))
            size += len(part[-1])
            if size >= TOGETHER:
                parts.append((line.n, b"".join(part)))
                part, size = [], 0
        return [*parts, (line.n, b"".join(part))] if part else parts

    async def lines(self, last: int, data: bytes) -> None:
        await self._client.write(data)
        self.place = msgspec.structs.replace(self.place, line=last)

    async def end(self, view: RunView) -> None:
        await self._event("end", msgspec.structs.replace(self.place, over=True), view)

    async def _event(self, kind: str, place: RunPosition, data: Any) -> None:
        await self._client.send(kind, place.id, data)
        self.place = place


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


ENDPOINTS = (stream_run,)
