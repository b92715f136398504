"""Schedules: workflows that run, and events that happen, at times of a calendar."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from shared.errors import Problem
from shared.resources.declaration import Resource, Spec, about, refers_to, resource
from shared.resources.shapes import Moment
from shared.values import YEAR, Name

Cron = Annotated[str, msgspec.Meta(max_length=200)]
Interval = Annotated[int, msgspec.Meta(ge=1, le=int(YEAR))]
Overlap = Literal["skip", "queue", "replace", "allow"]
CatchUp = Literal["none", "one", "all"]


class Firing(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one time of a schedule: a `run` or a `delivery` of its event; else the `reason` why there is neither."""

    scheduled_for: Moment
    outcome: Literal["fired", "skipped", "failed"]
    run: str | None = None
    delivery: str | None = None
    reason: str | None = None


class ScheduleAdds(msgspec.Struct, frozen=True):
    """When it fires next, what became of the last time, and the workflow whose code declares it, None for one that was put.

    `warnings`: its workflow is not there now.
    """

    next_at: Moment | None
    last: Firing | None
    declared_by: str | None
    warnings: list[Problem]


@resource(
    "schedule",
    plural="schedules",
    owner="events",
    # Of one organization: so many at one minute keep the others waiting for a few seconds.
    most=500,
    columns=("name", "cron", "every", "timezone", "workflow", "enabled", "next_at", "warnings"),
    adds=ScheduleAdds,
    example={"cron": "0 9 * * MON-FRI", "timezone": "Europe/Vienna", "workflow": "example"},
)
class Schedule(Spec, frozen=True, kw_only=True):
    """Times at which a workflow is run with `input`, or a topic has an event of the type `event` with `input` as its data.

    The times are those of `cron` in a time zone, or come `every` so many seconds.
    """

    cron: Annotated[Cron, about("Minute, hour, day of the month, month, day of the week.")] | None = None
    every: Annotated[Interval, about("Seconds from one time to the next.")] | None = None
    timezone: Annotated[Name, about("The time zone of `cron`, such as Europe/Vienna.")] = "UTC"
    workflow: Annotated[Name, about("What is run.")] | None = None
    source: Annotated[Name, refers_to("source", by_id=True), about("The topic that has an event.")] | None = None
    event: Annotated[Name, about("The type of that event.")] | None = None
    input: Annotated[dict[str, Any], about("The run's input, or the event's data.")] | None = None
    overlap: Annotated[Overlap, about("What happens while its last run goes on: skip, queue, replace, allow.")] = "skip"
    catch_up: Annotated[CatchUp, about("Which times that were missed are made up for: none, one, all.")] = "one"
    enabled: Annotated[bool, about("Whether it fires.")] = True


ScheduleEntry = Resource[Schedule]
