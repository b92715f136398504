"""/api/v1/logs and /api/v1/audit: the searchable archive of every message."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from services.gateway.api.endpoint import Call, Example, endpoint
from services.gateway.api.lists import Paged
from services.gateway.domain import EVERY_ORG, within_audit
from shared.errors import Invalid, Malformed, Problem
from shared.questions.logs import LogPage, Search

# Fields with another name in the question than in the query string.
PARAMETERS = {"since": "from", "until": "to"}


class SearchQuery(Paged, frozen=True, kw_only=True):
    """A search."""

    q: Annotated[str, msgspec.Meta(description='`field:value` terms, e.g. `level:error type:"run.failed"`.')] = ""
    since: Annotated[str, msgspec.Meta(description="RFC 3339, epoch milliseconds or `now-15m`; the last 24 hours.")] | None = (
        msgspec.field(default=None, name="from")
    )
    until: Annotated[str, msgspec.Meta(description="As `from`.")] | None = msgspec.field(default=None, name="to")
    order: Literal["asc", "desc"] = "desc"


@endpoint(
    "GET",
    "/api/v1/logs",
    role="viewer",
    errors=(Malformed,),
    every_org=True,
    example=Example(query={"q": "level:error", "from": "now-1h"}),
)
async def search_logs(call: Call[SearchQuery, None]) -> LogPage:
    """Search every archived message of the organization; `?org=*` looks everywhere."""
    return await _search(call, call.query.q)


@endpoint(
    "GET",
    "/api/v1/audit",
    role="viewer",
    errors=(Malformed,),
    every_org=True,
    example=Example(query={"from": "now-7d", "order": "asc"}),
)
async def search_audit(call: Call[SearchQuery, None]) -> LogPage:
    """Search the audit: actor, action, target, origin and outcome."""
    return await _search(call, within_audit(call.query.q))


async def _search(call: Call[SearchQuery, None], expression: str) -> LogPage:
    query, everything = call.query, call.caller.org == EVERY_ORG
    asked = Search(
        org="global" if everything else call.caller.org,
        q=expression,
        since=query.since,
        until=query.until,
        order=query.order,
        page=query.page,
        everything=everything,
    )
    try:
        page = await call.ask(asked)
    except Invalid as error:
        problems = tuple(Problem(PARAMETERS.get(one.path, one.path), one.message) for one in error.errors)
        raise Invalid(error.detail, errors=problems) from error
    return page


ENDPOINTS = (search_logs, search_audit)
