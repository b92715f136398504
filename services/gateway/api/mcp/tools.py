"""Workflows as tools: those that a key may start, called by runs as any other is asked for."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from services.gateway.api.endpoint import Call
from services.gateway.api.mcp.exchange import Exchange, Result
from services.gateway.api.mcp.following import Waiter, followed
from services.gateway.api.mcp.protocol import INVALID_PARAMS, RpcError, RpcRequest, answer, failure, listed, refused
from services.gateway.api.runs import RunBody, cancel_run, create_run, requested
from services.gateway.starts import Start, start
from shared.errors import Invalid, MillraceError, NotFound
from shared.messages.catalog import DeclaredTool
from shared.questions import Page
from shared.questions.executor import ListWorkflows, RunView, WorkflowEntry
from shared.runs import ENDED

# Of a page of tools.
MOST_TOOLS = 100
# In `_meta`: of a call whose run is to be cancelled when its client waits no longer; of a result, the run.
CANCEL, RUN = "millrace/cancel", "millrace/run"
_HINTS = {"read_only": "readOnlyHint", "destructive": "destructiveHint", "idempotent": "idempotentHint"}


async def list_tools(exchange: Exchange) -> Result:
    """Answer a page of the tools that the caller may call."""
    call, request = exchange.call, exchange.request
    page = Page(limit=MOST_TOOLS, cursor=request.cursor)
    found = await call.ask(ListWorkflows(org=call.caller.org, page=page, tools=True))
    items = [tool_of(one) for one in found.items if exchange.may(create_run, name=one.name) and await _is_seen(call, one)]
    return listed(request, "tools", items, found.next_cursor)


async def _is_seen(call: Call[Any, Any], entry: WorkflowEntry) -> bool:
    """Return whether a name means this workflow: the organization's own, which need be no tool, hides the platform's."""
    if entry.org == call.caller.org:
        return True
    return (await call.gateway.workflows.find(call.caller.org, entry.name)).org == entry.org


def tool_of(entry: WorkflowEntry) -> dict[str, Any]:
    """Return a workflow as clients see tools. Its name is one for a tool as it is."""
    told = msgspec.structs.asdict(entry.policy.tool or DeclaredTool())
    hints = {_HINTS[name]: value for name, value in told.items() if value is not None}
    return {
        "name": entry.name,
        "description": entry.doc,
        "inputSchema": {"type": "object"} | entry.input_schema,
        **({"annotations": hints} if hints else {}),
    }


async def call_tool(exchange: Exchange) -> Result:
    """Start the run that a tool is, and answer with its result when it has ended.

    A fault of the input, and an end without success, are results that say so, which a model can act on.
    """
    call, request = exchange.call, exchange.request
    name, given = request.text("name"), request.object("arguments")
    gateway, caller = call.gateway, call.caller
    with contextlib.ExitStack() as stack:

        async def begun(inner: Call[Any, RunBody]) -> Start:
            asked = await _asked(inner)
            woken.append(stack.enter_context(gateway.watching.watch(asked.run, caller.org)))
            await start(gateway, asked)
            return asked

        woken: list[Any] = []
        try:
            asked = await exchange.of(create_run, path={"name": name}, body=RunBody(input=given), handler=begun)
        except NotFound as error:
            raise RpcError(INVALID_PARAMS, f"there is no tool {name[:80]!r}") from error
        except Invalid as error:
            return failed(error.detail + "".join(f"\n{one.path}: {one.message}" for one in error.errors))
        waiter = Waiter(call.request, request, stream=exchange.takes_stream)
        try:
            await waiter.begin()
            answered = await _answered(exchange, asked.run, waiter, woken[0])
            if waiter.response is None:
                return answered
            await waiter.end(answer(request, answered))
        except ConnectionError:
            await _left(exchange, asked.run)
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


async def _answered(exchange: Exchange, run: str, waiter: Waiter, woken: Any) -> dict[str, Any]:
    try:
        view = await followed(exchange.call.gateway, exchange.call.caller, run, waiter, woken)
    except MillraceError as error:
        raise refused(error) from error
    return result_of(exchange.request, run, view)


async def _left(exchange: Exchange, run: str) -> None:
    """End what is left of a call whose client has gone: the run goes on, unless the call says that it is not to."""
    if exchange.request.meta.get(CANCEL) is True:
        with contextlib.suppress(MillraceError):
            await exchange.of(cancel_run, path={"id": run})


def result_of(request: RpcRequest, run: str, view: RunView | None) -> dict[str, Any]:
    """Return a run as the result of a tool: what the workflow returned, how it failed, or that it goes on."""
    about = {"_meta": {RUN: run}}
    link = {"type": "resource_link", "uri": f"millrace://runs/{run}", "name": f"run {run}", "mimeType": "application/json"}
    if view is None or view.status not in ENDED:
        status = "asked for" if view is None else view.status
        return {"content": [_text(f"The run {run} is {status}, and goes on."), link]} | about
    if view.status != "succeeded":
        how = view.status if view.error is None else f"{view.error.type}: {view.error.message}"
        return failed(f"The run {run} {view.status.replace('_', ' ')}: {how}") | about
    if view.result_ref is not None:
        return {"content": [_text(f"The result has {view.result_bytes} bytes, too many for an answer."), link]} | about
    result = view.result
    text = result if isinstance(result, str) else msgspec.json.encode(result).decode()
    # Before, a structure was an object alone.
    structure = {"structuredContent": result} if isinstance(result, dict) or (request.is_modern and result is not None) else {}
    return {"content": [_text(text)]} | structure | about


def failed(message: str) -> dict[str, Any]:
    """Return the result of a tool that has failed."""
    return {"content": [_text(message)], "isError": True}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
