"""/api/v1/schedules/{name}/next and …/run, /api/v1/firings: when schedules fire next, and firing one now."""

from __future__ import annotations

from typing import Annotated

import msgspec

from services.gateway.api.endpoint import IDEMPOTENCY_KEY, Audit, Call, Endpoint, endpoint
from services.gateway.api.lists import idempotency_key_of
from shared.envelope import derived_id, new_id
from shared.errors import Conflict, NotFound
from shared.questions.events import AllFirings, NextFirings, PlannedSchedule, PlannedTime, RunSchedule, ScheduleRun


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


class FiringsQuery(msgspec.Struct, frozen=True):
    """How far ahead."""

    hours: Annotated[int, msgspec.Meta(ge=1, le=744, description="From now on.")] = 24


class PlannedSchedules(msgspec.Struct, frozen=True):
    """The schedules that are switched on, by name, with their times."""

    items: list[PlannedSchedule]
    next_cursor: None = None


@endpoint("GET", "/api/v1/firings", role="viewer")
async def list_firings(call: Call[FiringsQuery, None]) -> PlannedSchedules:
    """List the next times of all schedules that are switched on: up to 100 of each, and of more than 20 schedules fewer."""
    return PlannedSchedules(await call.ask(AllFirings(org=call.caller.org, hours=call.query.hours)))


ENDPOINTS: tuple[Endpoint, ...] = (next_firings, run_schedule, list_firings)
