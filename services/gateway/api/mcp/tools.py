"""Workflows as tools: those that a key may start, called by runs as any other is asked for."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec

from services.gateway.api.endpoint import Call
from services.gateway.api.mcp import authoring, tasks
from services.gateway.api.mcp.exchange import Exchange, Result
from services.gateway.api.mcp.following import Waiter, followed
from services.gateway.api.mcp.protocol import INVALID_PARAMS, RpcError, RpcRequest, answer, failure, listed, refused
from services.gateway.api.mcp.results import failed, result_of
from services.gateway.api.runs import RunBody, create_run, requested
from services.gateway.api.streams import PAUSE
from services.gateway.starts import Start, start
from shared.errors import Invalid, MillraceError, NotFound, Unavailable
from shared.messages.catalog import DeclaredTool
from shared.questions import Page
from shared.questions.workflows import ListWorkflows, WorkflowEntry
from shared.runs import ENDED

# Of a page of tools.
MOST_TOOLS = 100
# In `_meta` of a call whose run is to be cancelled when its client waits no longer.
CANCEL = "millrace/cancel"
# Seconds for which the end of such a run is asked for.
LEFT = 60.0
_HINTS = {"read_only": "readOnlyHint", "destructive": "destructiveHint", "idempotent": "idempotentHint"}


async def list_tools(exchange: Exchange) -> Result:
    """Answer a page of the tools that the caller may call."""
    call, request = exchange.call, exchange.request
    page = Page(limit=MOST_TOOLS, cursor=request.cursor)
    found = await call.ask(ListWorkflows(org=call.caller.org, page=page, tools=True))
    items = [tool_of(one, request) for one in found.items if exchange.may(create_run, name=one.name) and await _is_seen(call, one)]
    if request.cursor is None:
        items = authoring.seen(exchange) + items
    return listed(request, "tools", items, found.next_cursor)


async def _is_seen(call: Call[Any, Any], entry: WorkflowEntry) -> bool:
    """Return whether a name means this workflow: the organization's own, which need be no tool, hides the platform's."""
    if entry.org == call.caller.org:
        return True
    return (await call.gateway.workflows.find(call.caller.org, entry.name)).org == entry.org


def tool_of(entry: WorkflowEntry, request: RpcRequest) -> dict[str, Any]:
    """Return a workflow as clients see tools. Its name is one for a tool as it is."""
    told = msgspec.structs.asdict(entry.policy.tool or DeclaredTool())
    hints = {_HINTS[name]: value for name, value in told.items() if value is not None}
    return {
        "name": entry.name,
        "description": entry.doc,
        "inputSchema": {"type": "object"} | entry.input_schema,
        **({"annotations": hints} if hints else {}),
        **({} if request.is_modern else {"execution": {"taskSupport": "optional"}}),
    }


async def call_tool(exchange: Exchange) -> Result:
    """Start the run that a tool is, and answer with its result when it has ended.

    A fault of the input, and an end without success, are results that say so, which a model can act on.
    """
    call, request = exchange.call, exchange.request
    name, given = request.text("name"), request.object("arguments")
    if (own := authoring.TOOLS.get(name)) is not None:
        return await authoring.call(exchange, own, given)
    gateway, caller = call.gateway, call.caller
    with contextlib.ExitStack() as stack:

        async def begun(inner: Call[Any, RunBody]) -> Start:
            asked = await _asked(inner)
            woken.append(stack.enter_context(gateway.watching.watch(asked.run, caller.org)))
            await start(gateway, asked)
            return asked

        woken: list[asyncio.Event] = []
        try:
            asked = await exchange.of(create_run, path={"name": name}, body=RunBody(input=given), handler=begun)
        except NotFound as error:
            raise RpcError(INVALID_PARAMS, f"there is no tool {name[:80]!r}") from error
        except Invalid as error:
            return failed(error)
        if tasks.is_asked(request):
            return tasks.created(request, asked.run, None)
        return await _waited(exchange, asked.run, woken[0], asked)


async def wait_for_task(exchange: Exchange) -> Result:
    """Answer with the result of a task when its run has ended."""
    view = await tasks.own(exchange)
    with exchange.call.gateway.watching.watch(view.id, view.org) as woken:
        return await _waited(exchange, view.id, woken, None)


async def _waited(exchange: Exchange, run: str, woken: asyncio.Event, asked: Start | None) -> Result:
    """Answer with the result of a run when it has ended; one that was `asked` for by this call may be cancelled with it."""
    request = exchange.request
    within = tasks.AFTER if tasks.is_taken(request) else None
    waiter = Waiter(exchange.call.request, request, stream=exchange.takes_stream, within=within)
    try:
        await waiter.begin()
        answered = await _answered(exchange, run, waiter, woken)
        if waiter.response is None:
            return answered
        await waiter.end(answer(request, answered))
    except ConnectionError:
        if asked is not None:
            await _left(exchange, asked)
    except RpcError as error:
        if waiter.response is None:
            raise
        with contextlib.suppress(ConnectionError):
            await waiter.end(failure(request.id, error))
    if waiter.response is None:
        raise ConnectionResetError("the client has gone")
    return waiter.response


async def _asked(call: Call[Any, RunBody]) -> Start:
    asked = await requested(call)
    if asked.workflow.policy.tool is None:
        raise NotFound(f"the workflow {asked.workflow.name} is no tool")
    return asked


async def _answered(exchange: Exchange, run: str, waiter: Waiter, woken: asyncio.Event) -> dict[str, Any]:
    try:
        view = await followed(exchange.call.gateway, exchange.call.caller, run, waiter, woken)
    except MillraceError as error:
        raise refused(error) from error
    if tasks.is_taken(exchange.request) and (view is None or view.status not in ENDED):
        return tasks.created(exchange.request, run, view)
    return result_of(exchange.request, run, view)


async def _left(exchange: Exchange, asked: Start) -> None:
    """End what is left of a call whose client has gone: the run goes on, unless the call says that it is not to.

    Nobody else will ask for its end: it is asked for again while the executor is away.
    """
    if exchange.request.meta.get(CANCEL) is not True:
        return
    watching, loop = exchange.call.gateway.watching, asyncio.get_running_loop()
    until = loop.time() + LEFT
    with contextlib.suppress(MillraceError):
        while True:
            try:
                await exchange.of(tasks.CANCEL_OWN, path={"name": asked.workflow.name, "id": asked.run})
                return
            except Unavailable:
                if watching.closing or loop.time() >= until:
                    raise
                await asyncio.sleep(PAUSE)
