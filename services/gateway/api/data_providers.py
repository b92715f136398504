"""/api/v1/data-providers: workflows that answer options for forms."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from services.gateway.api.endpoint import Call, Example, endpoint
from services.gateway.api.lists import Paged
from services.gateway.options import OptionsView, declared_of, options
from shared.errors import CodeFailed, Malformed, NotFound, Problem
from shared.questions.workflows import ListWorkflows, WorkflowList
from shared.values import decode

MAX_WAIT = 60.0


class OptionsQuery(msgspec.Struct, frozen=True):
    """An input, and how its options are wanted."""

    input: Annotated[str, msgspec.Meta(description="The input as a JSON object.")] = "{}"
    wait: Annotated[float, msgspec.Meta(ge=0, le=MAX_WAIT, description="Seconds, for options that are still to be made.")] = 30.0
    refresh: Annotated[bool, msgspec.Meta(description="Whether they are to be made now, though there are some.")] = False


@endpoint("GET", "/api/v1/data-providers", role="viewer", errors=(Malformed,))
async def list_data_providers(call: Call[Paged, None]) -> WorkflowList:
    """List the data providers of the organization, by name."""
    return await call.ask(ListWorkflows(org=call.caller.org, page=call.query.page, data_providers=True))


@endpoint(
    "GET",
    "/api/v1/data-providers/{name}",
    role="operator",
    errors=(NotFound, Malformed, CodeFailed),
    example=Example(path={"name": "boards"}, query={"input": '{"project": "a"}'}),
)
async def get_options(call: Call[OptionsQuery, None]) -> OptionsView:
    """Answer the options for an input, with their age: those that are kept, else those of a run that this waits for."""
    gateway, caller, query = call.gateway, call.caller, call.query
    provider = await gateway.workflows.find(caller.org, call.path["name"])
    declared_of(provider)
    try:
        given: Any = decode(query.input.encode())
    except Malformed as error:
        raise Malformed(f"input is no JSON: {error.detail}", errors=(Problem("input", "no JSON"),)) from error
    gateway.workflows.check(provider, given)
    return await options(gateway, caller.org, caller.actor, provider, given, wait=query.wait, newest=query.refresh)


ENDPOINTS = (list_data_providers, get_options)
