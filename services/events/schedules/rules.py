"""The rules of schedules that no schema can state."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from services.events import domain
from services.events.schedules import plan, state
from services.events.subscriptions import Workflows, absent
from shared.calendars import checked_cron, checked_zone
from shared.envelope import rfc3339, utc_now
from shared.errors import Invalid, Problem
from shared.owners.rows import ResourceRows
from shared.owners.rules import Draft, Rules
from shared.resources.declaration import Resource
from shared.resources.schedule import Firing, Schedule
from shared.streams import INLINE_BYTES

DECLARED = "workflow:"
# Times a minute at which the schedules of an organization fire together: each takes some milliseconds of all others' turns.
MOST_A_MINUTE = 1200


class Schedules(Rules[Schedule]):
    """A schedule has a calendar, and a workflow or a topic; the workflow need not exist yet."""

    def __init__(self, rows: ResourceRows, engine: AsyncEngine, workflows: Workflows) -> None:
        self._rows = rows
        self._engine = engine
        self._workflows = workflows

    async def check(self, draft: Draft[Schedule]) -> Schedule:
        """Return the spec, its expression in one spelling, if it says when, and what then."""
        spec = draft.spec
        if (spec.cron is None) == (spec.every is None):
            raise _wrong("cron", "a schedule has either cron or every")
        if (spec.workflow is None) == (spec.source is None):
            raise _wrong("workflow", "a schedule has either a workflow or a source, which is a topic")
        if (spec.event is None) != (spec.source is None):
            raise _wrong("event", "a source and the type of its event belong together")
        if spec.event is not None and not domain.EVENT_TYPE.match(spec.event):
            raise _wrong("event", "has 1 to 100 letters, digits, dots, underscores and hyphens")
        if spec.input is not None and len(msgspec.json.encode(spec.input)) > INLINE_BYTES:
            raise _wrong("input", f"is larger than {INLINE_BYTES} bytes of JSON")
        cron: str | None = None
        problems: list[Problem] = []
        try:
            cron = None if spec.cron is None else checked_cron(spec.cron)
        except ValueError as error:
            problems.append(Problem("cron", str(error)))
        try:
            checked_zone(spec.timezone)
        except ValueError as error:
            problems.append(Problem("timezone", str(error)))
        if problems:
            raise Invalid("; ".join(f"{one.path}: {one.message}" for one in problems), errors=tuple(problems))
        if source := draft.refs.get("source"):
            found = await self._rows.by_id("source", source)
            if found is not None and found[0].spec.adapter != domain.TOPIC:
                raise _wrong("source", f"has the adapter {found[0].spec.adapter!r}; only one with the adapter 'topic' takes events")
        await self._check_rate(draft)
        return msgspec.structs.replace(spec, cron=cron)

    async def _check_rate(self, draft: Draft[Schedule]) -> None:
        """Raise `Invalid` for a schedule with which those of its organization would come too often."""
        before = 0.0 if draft.before is None else _a_minute(draft.before.spec)
        if (rate := _a_minute(draft.spec)) <= max(1, before):
            return
        others = await self._rows.page("schedule", draft.org, "", 1000)
        together = rate + sum(_a_minute(one.spec) for one in others if one.id != draft.id)
        if together > MOST_A_MINUTE:
            most = f"{MOST_A_MINUTE:,} times a minute are the most"
            raise _wrong("every", f"the schedules of {draft.org} would come {together:,.0f} times a minute together, and {most}")

    async def shown(self, found: Sequence[Resource[Schedule]]) -> Sequence[dict[str, Any]]:
        """Return of each when it fires next, what became of the last time, the workflow that declares it, and the warnings."""
        known = await state.last(self._engine, [one.id for one in found])
        workflows = {org: self._workflows.known(org) for org in {one.org for one in found}}
        return [_shown(one, known.get(one.id), workflows[one.org]) for one in found]


def _shown(schedule: Resource[Schedule], last: Firing | None, workflows: Collection[str]) -> dict[str, Any]:
    next_at = plan.next_of(schedule.spec, utc_now())
    name = schedule.spec.workflow
    declared = schedule.applied_as if (schedule.applied_as or "").startswith(DECLARED) else None
    return {
        "next_at": None if next_at is None else rfc3339(next_at),
        "last": None if last is None else msgspec.to_builtins(last),
        "declared_by": None if declared is None else declared.removeprefix(DECLARED),
        "warnings": [] if name is None or name in workflows else [msgspec.to_builtins(absent(name, workflows))],
    }


def _a_minute(spec: Schedule) -> float:
    """Return how often a schedule fires in a minute, at most."""
    return 0.0 if not spec.enabled else 1.0 if spec.every is None else 60 / spec.every


def _wrong(field: str, detail: str) -> Invalid:
    return Invalid(f"{field}: {detail}", errors=(Problem(field, detail),))
