"""/api/v1/logs and /api/v1/audit: the searchable archive of everything that was said."""

from __future__ import annotations

from aiohttp import web

from services.gateway.api.access import every_org, gateway_of
from services.gateway.api.lists import page_of
from services.gateway.domain import EVERY_ORG, within_audit
from shared.errors import Invalid, Problem
from shared.http import json_response
from shared.questions.logs import LogPage, Search

# What the question calls otherwise than the query string does.
PARAMETERS = {"since": "from", "until": "to"}


@every_org
async def search_logs(request: web.Request) -> web.Response:
    """GET: what `q` matches between `from` and `to`, in `order` (desc, asc); `?org=*` looks everywhere."""
    return json_response(await _search(request, request.query.get("q", "")))


@every_org
async def search_audit(request: web.Request) -> web.Response:
    """GET: the same over who did what."""
    return json_response(await _search(request, within_audit(request.query.get("q", ""))))


async def _search(request: web.Request, query: str) -> LogPage:
    gateway, caller = gateway_of(request)
    order = request.query.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise Invalid("order is asc or desc", errors=(Problem("order", "neither asc nor desc"),))
    everything = caller.org == EVERY_ORG
    asked = Search(
        org="global" if everything else caller.org,
        q=query,
        since=request.query.get("from") or None,
        until=request.query.get("to") or None,
        order=order,
        page=page_of(request),
        everything=everything,
    )
    try:
        page: LogPage = await gateway.bus.ask(asked)
    except Invalid as error:
        problems = tuple(Problem(PARAMETERS.get(one.path, one.path), one.message) for one in error.errors)
        raise Invalid(error.detail, errors=problems) from error
    return page


ROUTES = [web.get("/logs", search_logs), web.get("/audit", search_audit)]
