"""/api/v1/workflows: what can be run."""

from __future__ import annotations

from aiohttp import web

from services.gateway.api.access import gateway_of
from services.gateway.api.lists import page_of
from shared.http import json_response
from shared.questions.executor import ListWorkflows


async def list_workflows(request: web.Request) -> web.Response:
    """GET: the workflows that the organization can run, by name."""
    gateway, caller = gateway_of(request)
    return json_response(await gateway.bus.ask(ListWorkflows(org=caller.org, page=page_of(request))))


async def get_workflow(request: web.Request) -> web.Response:
    """GET: one workflow: its version, input schema, limits, and where it is defined."""
    gateway, caller = gateway_of(request)
    found = await gateway.workflows.find(caller.org, request.match_info["name"])
    return json_response(found, headers={"ETag": f'"{found.version}"'})


ROUTES = [web.get("/workflows", list_workflows), web.get("/workflows/{name}", get_workflow)]
