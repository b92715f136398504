"""/api/v1/schedules/{name}/next and …/run: when a schedule fires next, and firing it now."""

from __future__ import annotations

from typing import Annotated

import msgspec

from services.gateway.api.endpoint import IDEMPOTENCY_KEY, Audit, Call, Endpoint, endpoint
from services.gateway.api.lists import idempotency_key_of
from shared.envelope import derived_id, new_id
from shared.errors import Conflict, NotFound
from shared.questions.events import NextFirings, PlannedTime, RunSchedule, ScheduleRun


class NextQuery(msgspec.Struct, frozen=True):
    """How many times are asked for."""

    n: Annotated[int, msgspec.Meta(ge=1, le=100, description="How many.")] = 5


class PlannedTimes(msgspec.Struct, frozen=True):
    """The next times of a schedule."""

    items: list[PlannedTime]
    next_cursor: None = None


@endpoint("GET", "/api/v1/schedules/{name}/next", role="viewer", errors=(NotFound,))
async def next_firings(call: Call[NextQuery, None]) -> PlannedTimes:
    """List the next times of a schedule, as if it were switched on."""
    return PlannedTimes(await call.ask(NextFirings(org=call.caller.org, name=call.path["name"], n=call.query.n)))


@endpoint(
    "POST",
    "/api/v1/schedules/{name}/run",
    role="operator",
    answers={202: ScheduleRun},
    headers=(IDEMPOTENCY_KEY,),
    errors=(NotFound, Conflict),
    audit=Audit("schedule", "run", "name"),
)
async def run_schedule(call: Call[None, None]) -> ScheduleRun:
    """Fire a schedule now, switched on or not. 409 where it skips what overlaps, and its last run goes on."""
    key, org = idempotency_key_of(call.request), call.caller.org
    id_ = new_id() if key is None else derived_id("firing of", org, call.path["name"], key)
    return await call.ask(RunSchedule(id=id_, org=org, actor=call.caller.actor, name=call.path["name"]))


ENDPOINTS: tuple[Endpoint, ...] = (next_firings, run_schedule)
