"""Waiting for the end of a run in the name of one request: with progress where the client takes a stream of events."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec
from aiohttp import web

from services.gateway.api.access import Caller
from services.gateway.api.mcp.protocol import RpcRequest, notification
from services.gateway.api.runs import MAX_WAIT
from services.gateway.api.sse import HEADERS, EventClient
from services.gateway.api.streams import GATHER, LINES, LOOKS, PAUSE
from services.gateway.parts import Gateway
from shared.errors import Unavailable
from shared.questions.runs import LineView, ListLines, ListStates, RunView
from shared.runs import ENDED

# Characters of a line of output that a notification shows.
MOST_SHOWN = 500


class Waiter:
    """One client that waits. Every method raises ConnectionError when it is gone, or is cut off because it takes no bytes.

    Without `stream` it takes one answer as JSON, and waits no longer for it than a request for a run does. After `within` seconds
    it is answered whatever has come.
    """

    def __init__(self, web_request: web.Request, request: RpcRequest, *, stream: bool, within: float | None) -> None:
        self._web = web_request
        self._token = request.meta.get("progressToken")
        self._told = 0
        most = within if within is not None else None if stream else MAX_WAIT
        self._until = None if most is None else asyncio.get_running_loop().time() + most
        self.response = web.StreamResponse(headers=HEADERS) if stream else None
        self._client = None if self.response is None else EventClient(web_request, self.response)

    async def begin(self) -> None:
        """Begin the stream."""
        if self.response is not None:
            await self.response.prepare(self._web)

    @property
    def wants_progress(self) -> bool:
        """Return whether the client has asked to be told of progress, and can be."""
        return self._client is not None and isinstance(self._token, str | int) and not isinstance(self._token, bool)

    @property
    def is_over(self) -> bool:
        """Return whether the client is to be answered now, whatever has come."""
        return self._until is not None and asyncio.get_running_loop().time() >= self._until

    async def progress(self, message: str) -> None:
        """Tell how the run goes on."""
        if self._client is not None and self.wants_progress:
            self._told += 1
            told = {"progressToken": self._token, "progress": self._told, "message": message}
            await self._client.send("message", "", notification("notifications/progress", told))

    async def quiet(self, woken: asyncio.Event, seconds: float) -> None:
        """Wait until there may be something new."""
        if self._until is not None:
            seconds = max(0.0, min(seconds, self._until - asyncio.get_running_loop().time()))
        if self._client is not None:
            await self._client.quiet(woken, seconds)
            return
        if self._web.transport is None or self._web.transport.is_closing():
            raise ConnectionResetError("the client has gone")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await woken.wait()

    async def end(self, document: dict[str, Any]) -> None:
        """Answer."""
        if self._client is not None:
            await self._client.send("message", "", document)


async def followed(gateway: Gateway, caller: Caller, run: str, waiter: Waiter, woken: asyncio.Event) -> RunView | None:
    """Return a run when it has ended, or as it is when the client, or this process, waits no longer; None if that is not known."""
    seq = line = 0
    view: RunView | None = None
    while not (gateway.watching.closing or waiter.is_over):
        pause = LOOKS
        # Before looking: news during the look wakes this client again.
        woken.clear()
        try:
            states = await gateway.bus.ask(ListStates(org=caller.org, id=run, after=seq))
            for item in states.items:
                seq, view = item.seq, item.view
                await waiter.progress(_said(view))
            if waiter.wants_progress:
                line = await _lines(gateway, caller, run, line, waiter)
            if states.ended and view is not None and view.status in ENDED:
                return view
            if states.more:
                continue
        except Unavailable:
            pause = PAUSE
        await waiter.quiet(woken, pause)
        await asyncio.sleep(GATHER)
    return view


async def _lines(gateway: Gateway, caller: Caller, run: str, after: int, waiter: Waiter) -> int:
    """Tell the new lines of a run; returns the number of the last one."""
    more = True
    while more:
        page = await gateway.bus.ask(ListLines(org=caller.org, id=run, after=after, limit=LINES, settled=True))
        more = page.next_cursor is not None
        for one in page.items:
            after = one.n
            await waiter.progress(_shown(one))
    return after


def _said(view: RunView) -> str:
    return view.status if view.blocked_on is None else f"{view.status} for {view.blocked_on}"


def _shown(one: LineView) -> str:
    line = one.line
    fields = f" {msgspec.json.encode(line.fields).decode()}" if line.fields else ""
    return f"{line.message}{fields}"[:MOST_SHOWN]
