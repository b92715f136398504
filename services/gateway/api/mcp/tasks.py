"""Tasks: runs that go on while their client does other things. A task's id is the run's, and so any replica knows it.

The revision of 2025-11-25 has a client ask for a task with the call. That of 2026-07-28 has them as an extension, where the server
answers a task for a call that takes long, to a client that says that it can follow one.
"""

from __future__ import annotations

from typing import Any

import msgspec

from services.gateway.api.mcp.exchange import Exchange, Result
from services.gateway.api.mcp.protocol import RpcRequest
from services.gateway.api.mcp.results import result_of
from services.gateway.api.runs import cancel_run, create_run
from shared.envelope import rfc3339, utc_now
from shared.errors import NotFound
from shared.questions.runs import GetRun, RunView
from shared.runs import ENDED

EXTENSION = "io.modelcontextprotocol/tasks"
# Seconds after which a call is answered by a task, where its client can follow one.
AFTER = 10.0
# Milliseconds between two questions for a task.
POLL = 2000
# A task is its caller's own, who may cancel it by what allowed the call.
CANCEL_OWN = msgspec.structs.replace(cancel_run, path="/api/v1/workflows/{name}/runs/{id}/cancel")


def is_asked(request: RpcRequest) -> bool:
    """Return whether a call of the earlier revision asks to be answered by a task at once."""
    return not request.is_modern and isinstance(request.params.get("task"), dict)


def is_taken(request: RpcRequest) -> bool:
    """Return whether a call may be answered by a task once it takes long."""
    return request.is_modern and request.takes("extensions", EXTENSION)


def created(request: RpcRequest, run: str, view: RunView | None) -> dict[str, Any]:
    """Return the answer that a call goes on as a task."""
    task = _task(request, run, view)
    return {"resultType": "task"} | task if request.is_modern else {"task": task}


async def get_task(exchange: Exchange) -> Result:
    """Answer how a task is; in the later revision with its result, once it has one."""
    view = await own(exchange)
    task = _task(exchange.request, view.id, view)
    if exchange.request.is_modern and task["status"] == "completed":
        return task | {"result": result_of(exchange.request, view.id, view)}
    return task


async def update_task(exchange: Exchange) -> Result:
    """Take answers to what a task asks: nothing here asks its client, and what is not asked is ignored."""
    await own(exchange)
    return {}


async def cancel_task(exchange: Exchange) -> Result:
    """Ask a task's run to stop."""
    view = await own(exchange)
    if view.status not in ENDED:
        await exchange.of(CANCEL_OWN, path={"name": view.workflow, "id": view.id})
    return {} if exchange.request.is_modern else _task(exchange.request, view.id, view)


async def own(exchange: Exchange) -> RunView:
    """Return the run of a task that the caller has begun, and may begin. Raises `NotFound`."""
    caller, run = exchange.call.caller, exchange.request.text("taskId")
    try:
        view = await exchange.call.ask(GetRun(org=caller.org, id=run))
    except NotFound:
        view = None
    if view is None or view.requested_by != caller.actor or not exchange.may(create_run, name=view.workflow):
        raise NotFound(f"there is no task {run[:80]!r}")
    return view


def _task(request: RpcRequest, run: str, view: RunView | None) -> dict[str, Any]:
    began = rfc3339(utc_now()) if view is None else view.requested_at
    last = began if view is None else view.finished_at or view.started_at or began
    said = "queued" if view is None else view.status if view.blocked_on is None else f"{view.status} for {view.blocked_on}"
    times = {"ttlMs": None, "pollIntervalMs": POLL} if request.is_modern else {"ttl": None, "pollInterval": POLL}
    return {
        "taskId": run,
        "status": _status(request, view),
        "statusMessage": said,
        "createdAt": began,
        "lastUpdatedAt": last,
    } | times


def _status(request: RpcRequest, view: RunView | None) -> str:
    if view is None or view.status not in ENDED:
        return "working"
    if view.status == "cancelled":
        return "cancelled"
    # In the later revision a result that says what failed is one all the same.
    return "completed" if view.status == "succeeded" or request.is_modern else "failed"
