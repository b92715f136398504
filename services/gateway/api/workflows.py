"""/api/v1/workflows: the workflows that can be run."""

from __future__ import annotations

from services.gateway.api.endpoint import ETAG, Answer, Call, Reply, endpoint
from services.gateway.api.lists import Paged
from shared.errors import Malformed, NotFound
from shared.questions.workflows import ListWorkflows, WorkflowEntry, WorkflowList


@endpoint("GET", "/api/v1/workflows", role="viewer", errors=(Malformed,))
async def list_workflows(call: Call[Paged, None]) -> WorkflowList:
    """List the workflows that the organization can run, by name."""
    return await call.ask(ListWorkflows(org=call.caller.org, page=call.query.page))


@endpoint(
    "GET", "/api/v1/workflows/{name}", role="viewer", answers={200: Reply(WorkflowEntry, headers=(ETAG,))}, errors=(NotFound,)
)
async def get_workflow(call: Call[None, None]) -> Answer:
    """Show one workflow: its version, input schema, limits, and where it is defined."""
    found = await call.gateway.workflows.find(call.caller.org, call.path["name"])
    return Answer(body=found, tag=found.version)


ENDPOINTS = (list_workflows, get_workflow)
