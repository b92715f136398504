"""/api/v1/deliveries: the story of every webhook that was admitted."""

from __future__ import annotations

from aiohttp import web

from services.gateway.api.access import audited, gateway_of
from services.gateway.api.lists import boolean_of, id_of, no_body, page_of
from shared.envelope import new_id
from shared.errors import Invalid, Problem
from shared.http import json_response
from shared.questions.events import GetDelivery, ListDeliveries, RetryDelivery

STATUSES = ("accepted", "routed", "filtered", "unroutable", "dead")


async def list_deliveries(request: web.Request) -> web.Response:
    """GET: newest first; `status`, `source` (a name or an id) and how the `id` begins narrow."""
    gateway, caller = gateway_of(request)
    status = request.query.get("status") or None
    if status not in {None, *STATUSES}:
        raise Invalid(f"there is no such status: {', '.join(STATUSES)}", errors=(Problem("status", "no such status"),))
    asked = ListDeliveries(
        org=caller.org,
        page=page_of(request),
        status=status,
        source=request.query.get("source") or None,
        id=request.query.get("id") or None,
    )
    return json_response(await gateway.bus.ask(asked))


async def get_delivery(request: web.Request) -> web.Response:
    """GET: one delivery."""
    gateway, caller = gateway_of(request)
    return json_response(await gateway.bus.ask(GetDelivery(org=caller.org, id=id_of(request))))


@audited("delivery", "retry", "id")
async def retry_delivery(request: web.Request) -> web.Response:
    """POST: route it again, with new runs for those that have not succeeded and do not go on, or for `all=true` of them."""
    gateway, caller = gateway_of(request)
    await no_body(request)
    everything = boolean_of(request, "all", default=False)
    command = RetryDelivery(id=new_id(), org=caller.org, actor=caller.actor, delivery=id_of(request), everything=everything)
    return json_response(await gateway.bus.ask(command), status=202)


ROUTES = [
    web.get("/deliveries", list_deliveries),
    web.get("/deliveries/{id}", get_delivery),
    web.post("/deliveries/{id}/retry", retry_delivery),
]
