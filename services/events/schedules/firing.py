"""Makes runs and events of the times of schedules: each exactly once, or as the schedule's policies have it.

Whatever happens to a schedule leads to one look at it: it was changed, its timer fired, or it is found overdue. A look holds the
schedule's lock, fires what is due since the last one, sets the timer for the next time, and records how far the schedule has come.
The ids of runs and events derive from schedule and time. So a look that was cut off anywhere is simply done again, and a timer
that fires twice, late, or out of order is one look too many. A timer that the broker lost is made up for by the search.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from services.events import domain
from services.events.deliveries import DeliveryDeps, emit_event
from services.events.ends import end_of
from services.events.holding.releasing import AHEAD, OWNER, time_of
from services.events.holding.releasing import PREFIX as HELD
from services.events.schedules import plan, state
from services.events.schedules.plan import ScheduleState
from shared import tasks
from shared.db import Connection
from shared.envelope import Sealed, derived_id, new_id, rfc3339, utc_now
from shared.errors import Invalid, MillraceError, NotFound, Unavailable
from shared.leader import lead
from shared.messages import (
    Message,
    RunRequested,
    ScheduleFailed,
    ScheduleFired,
    ScheduleMissed,
    ScheduleSkipped,
    TimerSet,
)
from shared.messages.timer import fired_for, is_foreign
from shared.projected import Projected, Recorded, in_batches
from shared.projection import Projection
from shared.pull import StreamError
from shared.questions.events import EmitEvent
from shared.quotas import OverQuota, Quotas
from shared.resources.declaration import ResourceChanged, ResourceRemoved
from shared.resources.schedule import Firing, Schedule, ScheduleEntry
from shared.statements import Statement

# Looks at the same time: each has one connection to the database, or two, of a pool that questions share.
AT_ONCE = 3
# Seconds between searches, and after which a timer that has not fired was lost.
PAUSE = 2.0
LATE = timedelta(seconds=2)
# Not that of a projection, which is made of the service and its name.
LOCK = "events.overdue-schedules"
ROUND = 500
_POLICIES = {"queue": "queue", "replace": "cancel_older"}
_log = structlog.get_logger()


class FiringDeps(DeliveryDeps, Protocol):
    """Dependencies of schedules."""

    engine: AsyncEngine
    database_url: str
    catalog: Projection
    quotas: Quotas


class Scheduler:
    """Looks at schedules. Safe to use from several replicas."""

    def __init__(self, deps: FiringDeps, *, now: Callable[[], datetime] = utc_now) -> None:
        self._deps = deps
        self._now = now
        # Those that could not be looked at, which was logged; the search comes back to them.
        self._postponed: set[str] = set()

    def followers(self) -> list[Projected]:
        """Return the two projections, without rows, that follow changed schedules and timers."""
        return [
            Projected(name="schedules", stream="CATALOG", apply=in_batches(self._changed), tables=(), filters=("schedule.>",)),
            Projected(name="timers", stream="TIMERS", apply=in_batches(self._fired), tables=(), filters=(fired_for(OWNER),)),
        ]

    async def _changed(self, batch: Sequence[Recorded], _connection: Connection) -> list[Statement]:
        await self._deps.catalog.caught_up(batch[-1].delivered.sequence) if batch else False
        changed = (one.message for one in batch)
        ids = dict.fromkeys(one.id for one in changed if isinstance(one, ResourceChanged | ResourceRemoved))
        await tasks.each(AT_ONCE, ids, self._look_or_postpone)
        return []

    async def _fired(self, batch: Sequence[Recorded], _connection: Connection) -> list[Statement]:
        fired: dict[str, datetime | None] = {}
        for one in batch:
            if not is_foreign(one.delivered.headers, OWNER) and not one.envelope.subject.startswith(HELD):
                fired[one.envelope.subject] = time_of(one.envelope)
        await tasks.each(AT_ONCE, fired.items(), lambda one: self._look_or_postpone(*one))
        return []

    async def _look_or_postpone(self, id_: str, at: datetime | None = None) -> None:
        """Look at one of many: an obstacle of one, such as a workflow that nobody is there to look up, holds no other one up."""
        try:
            await self.look_at(id_, at)
        except (Unavailable, StreamError) as error:
            if id_ not in self._postponed:
                self._postponed.add(id_)
                _log.warning("schedule.postponed", schedule=id_, reason=str(error))
        else:
            self._postponed.discard(id_)

    async def look_at(self, id_: str, at: datetime | None = None) -> None:
        """Fire what is due of a schedule, and set its next timer; `at` is the time by a timer. Raises `Unavailable`."""
        async with state.held(self._deps.engine, id_) as connection:
            schedule, before = await state.schedule_of(connection, id_), await state.read(connection, id_)
            if schedule is None:
                await state.forget(connection, id_)
                return
            now = self._now()
            if at is not None and now < at <= now + AHEAD:
                now = at
            last, last_run = (before.last, before.last_run) if before is not None else (None, None)
            told: list[Sealed[Any]] = []
            for due in plan.planned(schedule, before, now):
                planned = msgspec.structs.replace(schedule, spec=due.spec)
                if due.missed is not None:
                    told.append(self._missed(planned, *due.missed))
                for time in due.times:
                    identity = derived_id(id_, rfc3339(time))
                    last = await self.fire(planned, time, identity, last_run)
                    told.append(self._told(planned, last, identity))
                    last_run = last.run if last.outcome == "fired" and last.run is not None else last_run
            until = plan.handled_until(schedule, before, now)
            next_at = plan.next_of(schedule.spec, until)
            if next_at is not None:
                timer = TimerSet(key=id_, owner=OWNER, at=rfc3339(next_at))
                # Always a new one: the timer of a moment may have fired, or given way to another, and be wanted again.
                told.append(self._deps.bus.seal(timer, org=schedule.org, id=new_id()))
            await asyncio.gather(*map(self._deps.bus.publish, told))
            after = ScheduleState(
                version=schedule.version, spec=schedule.spec, handled_until=until, next_at=next_at, last=last, last_run=last_run
            )
            await state.write(connection, id_, after)

    async def run_now(self, id_: str, command: str) -> Firing:
        """Fire a schedule by hand, switched on or not. Raises `NotFound`, `Unavailable`."""
        async with state.held(self._deps.engine, id_) as connection:
            schedule, before = await state.schedule_of(connection, id_), await state.read(connection, id_)
            if schedule is None:
                raise NotFound(f"there is no schedule {id_}")
            firing = await self.fire(schedule, self._now(), command, None if before is None else before.last_run)
            if firing.outcome == "fired":
                # Of anything else who asked for it hears.
                await self._deps.bus.publish(self._told(schedule, firing, command))
            if before is not None:
                last_run = firing.run if firing.outcome == "fired" and firing.run is not None else before.last_run
                await state.write(connection, id_, msgspec.structs.replace(before, last=firing, last_run=last_run))
            return firing

    async def fire(self, schedule: ScheduleEntry, time: datetime, identity: str, last_run: str | None) -> Firing:
        """Make the run or the event of one time; done again with the same `identity` it makes no other. Raises `Unavailable`."""
        at = rfc3339(time)
        try:
            if schedule.spec.workflow is None:
                return Firing(scheduled_for=at, outcome="fired", delivery=await self._emit(schedule, identity, at))
            run = derived_id(identity, "run")
            if schedule.spec.overlap == "skip" and last_run not in {None, run} and await self._goes_on(str(last_run)):
                return Firing(scheduled_for=at, outcome="skipped", run=last_run, reason=f"run {last_run} goes on")
            await self._request(schedule, schedule.spec, identity, at)
        except (Unavailable, StreamError):
            raise
        except MillraceError as error:
            reason = error.detail
        except Exception as error:
            # A bug: it must not keep this schedule, or another one, from its next time.
            _log.exception("schedule.bug", schedule=schedule.id)
            reason = f"{type(error).__name__}: {error}"[:500]
        else:
            return Firing(scheduled_for=at, outcome="fired", run=run)
        _log.warning("schedule.failed", org=schedule.org, schedule=schedule.name, scheduled_for=at, reason=reason)
        return Firing(scheduled_for=at, outcome="failed", reason=reason)

    def _told(self, schedule: ScheduleEntry, firing: Firing, identity: str) -> Sealed[Any]:
        """Return the message of a firing: the same one when it is done again."""
        fields = {"schedule": schedule.id, "name": schedule.name, "scheduled_for": firing.scheduled_for}
        message: Message
        if firing.outcome == "fired":
            message = ScheduleFired(**fields, run=firing.run, delivery=firing.delivery)
        elif firing.outcome == "skipped":
            message = ScheduleSkipped(**fields, run=firing.run or "", reason=firing.reason or "")
        else:
            message = ScheduleFailed(**fields, reason=firing.reason or "")
        return self._deps.bus.seal(message, org=schedule.org, id=_message_id(identity, firing.outcome))

    def _missed(self, schedule: ScheduleEntry, first: datetime, last: datetime) -> Sealed[Any]:
        message = ScheduleMissed(schedule=schedule.id, name=schedule.name, first=rfc3339(first), last=rfc3339(last))
        _log.warning("schedule.missed", org=schedule.org, schedule=schedule.name, first=message.first, last=message.last)
        id_ = _message_id(derived_id(schedule.id, message.first, message.last), "missed")
        return self._deps.bus.seal(message, org=schedule.org, id=id_)

    async def _emit(self, schedule: ScheduleEntry, identity: str, at: str) -> str:
        command = EmitEvent(
            id=identity,
            org=schedule.org,
            actor=f"schedule:{schedule.name}",
            source=schedule.refs["source"],
            type=schedule.spec.event or "",
            data=schedule.spec.input,
            correlation_id=_message_id(identity, "fired"),
            causation_id=_message_id(identity, "fired"),
            scheduled_for=at,
        )
        return (await emit_event(command, self._deps)).delivery

    async def _request(self, schedule: ScheduleEntry, spec: Schedule, identity: str, at: str) -> None:
        workflow = await self._deps.workflow(schedule.org, spec.workflow or "")
        given = spec.input or {}
        if misfit := domain.misfit(workflow.input_schema, given):
            raise Invalid(f"the input does not fit {workflow.name}: {misfit}")
        try:
            self._deps.quotas.admit_run(schedule.org)
        except OverQuota as error:
            # The next time comes by itself.
            raise Invalid(error.detail) from error
        policy, run, begun = _POLICIES.get(spec.overlap), derived_id(identity, "run"), _message_id(identity, "fired")
        request = RunRequested(
            run=run,
            workflow=workflow.name,
            version=workflow.version,
            input=given,
            requested_by=f"schedule:{schedule.name}",
            timeout=workflow.timeout,
            deadline=workflow.policy.queue_timeout,
            group=workflow.policy.group,
            workflow_org=workflow.org,
            # By it the executor knows one that was carried out, and purged from the bus, before it came again.
            received_at=at,
            concurrency_key=None if policy is None else f"schedule {schedule.id}",
            concurrency_policy=policy,
            scheduled_for=at,
        )
        await self._deps.bus.publish(
            self._deps.bus.seal(request, org=schedule.org, id=run, correlation=begun, causation=begun),
        )

    async def _goes_on(self, run: str) -> bool:
        return await end_of(self._deps.bus.client, run) == "goes_on"

    async def sweep(self) -> None:
        """Search for ever; an obstacle is logged, once, and waited out. Of several replicas one is active."""
        await lead(
            self.round, url=self._deps.database_url, service=OWNER, lock=LOCK, pause=PAUSE, interrupted="schedules.interrupted"
        )

    async def round(self) -> int:
        """Look at every schedule that is overdue, new or changed; returns how many there were. Raises `Unavailable`."""
        found = await state.overdue(self._deps.engine, self._now(), LATE, ROUND)
        await tasks.each(AT_ONCE, found, self._look_or_postpone)
        return len(found)


def _message_id(identity: str, outcome: str) -> str:
    return derived_id(identity, f"firing.{outcome}")
