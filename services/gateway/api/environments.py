"""/api/v1/workspace/environments: the packages of a workspace, and how far their installation is."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated, Literal

import msgspec
from aiohttp import web

from services.gateway.api.endpoint import Audit, Call, Reply, endpoint
from services.gateway.api.sse import HEADERS, HEARTBEAT, SLOW
from shared.envelope import new_id
from shared.errors import Conflict, Unavailable
from shared.messages.catalog import FileProblem
from shared.questions.environments import BuildEnvironments, EnvironmentList, ListEnvironments

PATH = "/api/v1/workspace/environments"
# Seconds between two looks at environments that are being built.
LOOKS = 0.5


class EnvironmentsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What to show of each."""

    locks: Annotated[bool, msgspec.Meta(description="Whether to show locks: the file of each package, with its hash.")] = False


class EnvironmentEvent(msgspec.Struct, frozen=True):
    """One event of a stream: `data` is the list of environments as JSON, with `end` the last one."""

    data: str
    event: Literal["environments", "end"]


class BuiltView(msgspec.Struct, frozen=True, kw_only=True):
    """The problems of the workspace with its packages resolved anew; `building` while they are still being installed."""

    problems: list[FileProblem]
    building: bool


@endpoint("GET", PATH, role="viewer")
async def list_environments(call: Call[EnvironmentsQuery, None]) -> EnvironmentList:
    """List the environments of the workspace: their packages, size and state, and the resolver's words where one failed."""
    return await call.ask(ListEnvironments(org=call.caller.org, locks=call.query.locks))


@endpoint("POST", f"{PATH}/build", role="developer", errors=(Conflict,), audit=Audit("workspace", "build"))
async def build_environments(call: Call[None, None]) -> BuiltView:
    """Resolve what the workspace asks for anew, to the newest versions that fit, and serve its workflows with them."""
    done = await call.ask(BuildEnvironments(id=new_id(), org=call.caller.org, actor=call.caller.actor))
    return BuiltView(problems=done.problems, building=done.building)


@endpoint("GET", f"{PATH}/stream", role="viewer", answers={200: Reply(EnvironmentEvent, media="text/event-stream")})
async def stream_environments(call: Call[None, None]) -> web.StreamResponse:
    """Send the list of environments whenever it changes, until none is being built."""
    gateway, request = call.gateway, call.request
    question = ListEnvironments(org=call.caller.org)
    found = await call.ask(question)
    response = web.StreamResponse(headers=HEADERS)
    # A client that is gone needs no answer.
    with contextlib.suppress(ConnectionError, TimeoutError):
        await response.prepare(request)
        sent, quiet = b"", 0.0
        while not gateway.watching.closing:
            data = msgspec.json.encode(found)
            is_over = all(one.status != "building" for one in found.items)
            if data != sent or is_over:
                await _write(response, b"event: %b\ndata: %b\n\n" % (b"end" if is_over else b"environments", data))
                sent, quiet = data, 0.0
            if is_over:
                break
            await asyncio.sleep(LOOKS)
            quiet += LOOKS
            if quiet >= HEARTBEAT:
                await _write(response, b": still here\n\n")
                quiet = 0.0
            with contextlib.suppress(Unavailable):
                found = await call.ask(question)
    return response


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(SLOW):
        await response.write(data)


ENDPOINTS = (list_environments, build_environments, stream_environments)
"""The endpoints of this module."""
