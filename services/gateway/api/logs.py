"""/api/v1/logs and /api/v1/audit: the searchable archive of every message."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from services.gateway.api.access import Caller
from services.gateway.api.endpoint import Audit, Call, Example, endpoint
from services.gateway.api.lists import Paged
from services.gateway.domain import EVERY_ORG
from shared.errors import Invalid, Malformed, NotFound, Problem
from shared.questions import Question
from shared.questions.logs import CountByTime, CountByValue, Facets, Histogram, LogPage, Search

A = TypeVar("A")

# Fields with another name in the question than in the query string.
PARAMETERS = {"since": "from", "until": "to"}
# Characters of what was asked for, in the audit of a search of the audit.
MOST_NOTED = 500


Q = Annotated[str, msgspec.Meta(description='`field:value` terms, e.g. `level:error type:"run.failed"`.')]
Since = Annotated[str, msgspec.Meta(description="RFC 3339, epoch milliseconds or `now-15m`; the last 24 hours.")]
Until = Annotated[str, msgspec.Meta(description="As `from`.")]


Saved = Annotated[str, msgspec.Meta(description="A saved search: what it finds as well.")]


class Ranged(msgspec.Struct, frozen=True, kw_only=True):
    """Messages that a query matches, within a range of times."""

    q: Q = ""
    saved: Saved | None = None
    since: Since | None = msgspec.field(default=None, name="from")
    until: Until | None = msgspec.field(default=None, name="to")


class SearchQuery(Paged, frozen=True, kw_only=True):
    """A search."""

    q: Q = ""
    saved: Saved | None = None
    since: Since | None = msgspec.field(default=None, name="from")
    until: Until | None = msgspec.field(default=None, name="to")
    order: Literal["asc", "desc"] = "desc"


class HistogramQuery(Ranged, frozen=True, kw_only=True):
    """Counts by time."""

    bars: Annotated[int, msgspec.Meta(ge=2, le=1000, description="At most so many bars, of a round length.")] = 60


class FacetsQuery(Ranged, frozen=True, kw_only=True):
    """Counts by value."""

    fields: Annotated[str, msgspec.Meta(description="Up to ten, with commas between: `level,workflow,fields.status`.")] = (
        "level,type,service,workflow"
    )
    values: Annotated[int, msgspec.Meta(ge=1, le=100, description="Of each field.")] = 10


@endpoint(
    "GET",
    "/api/v1/logs",
    role="viewer",
    errors=(Malformed, NotFound),
    every_org=True,
    example=Example(query={"q": "level:error", "from": "now-1h"}),
)
async def search_logs(call: Call[SearchQuery, None]) -> LogPage:
    """Search every archived message of the organization; `?org=*` looks everywhere."""
    return await _search(call)


@endpoint(
    "GET",
    "/api/v1/audit",
    role="viewer",
    errors=(Malformed, NotFound),
    every_org=True,
    audit=Audit("audit", "search"),
    example=Example(query={"from": "now-7d", "order": "asc"}),
)
async def search_audit(call: Call[SearchQuery, None]) -> LogPage:
    """Search the audit: actor, action, target, origin and outcome. That it was read is audited as well."""
    query = call.query
    given = {"q": query.q, "saved": query.saved, "from": query.since, "to": query.until}
    call.note(**{name: value[:MOST_NOTED] for name, value in given.items() if value})
    return await _search(call, "AUDIT")


@endpoint(
    "GET",
    "/api/v1/logs/histogram",
    role="viewer",
    errors=(NotFound,),
    every_org=True,
    example=Example(query={"q": "level:error", "from": "now-1h"}),
)
async def count_logs_by_time(call: Call[HistogramQuery, None]) -> Histogram:
    """Count the messages of a search by time, and by level."""
    return await asked(call, CountByTime(**of_times(call), bars=call.query.bars))


@endpoint(
    "GET",
    "/api/v1/logs/facets",
    role="viewer",
    errors=(NotFound,),
    every_org=True,
    example=Example(query={"fields": "level,workflow", "from": "now-1h"}),
)
async def count_logs_by_value(call: Call[FacetsQuery, None]) -> Facets:
    """Count the most frequent values of fields among the newest 100,000 messages of a search."""
    query = call.query
    fields = [name.strip() for name in query.fields.split(",") if name.strip()]
    return await asked(call, CountByValue(**of_times(call), fields=fields, values=query.values))


async def _search(call: Call[SearchQuery, None], stream: str | None = None) -> LogPage:
    query = call.query
    return await asked(call, Search(**of_times(call), stream=stream, order=query.order, page=query.page))


def of_times(call: Call[Any, None]) -> dict[str, Any]:
    """Return the fields of a question about the messages that the caller may see and has asked for."""
    return of_rows(call.caller, call.query) | {"since": call.query.since, "until": call.query.until}


def of_rows(caller: Caller, query: Any) -> dict[str, Any]:
    """Return the fields of a question about messages: whose they are is decided here, for every endpoint."""
    everything = caller.org == EVERY_ORG
    return {"org": "global" if everything else caller.org, "everything": everything, "q": query.q, "saved": query.saved}


async def asked(call: Call[Any, None], question: Question[A]) -> A:
    """Ask about messages; what is wrong with the question is named as the query string has it. Raises `Invalid`."""
    try:
        return await call.ask(question)
    except Invalid as error:
        problems = tuple(Problem(PARAMETERS.get(one.path, one.path), one.message) for one in error.errors)
        raise Invalid(error.detail, errors=problems) from error


ENDPOINTS = (search_logs, search_audit, count_logs_by_time, count_logs_by_value)
