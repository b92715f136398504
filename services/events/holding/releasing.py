"""Releases held events: asks for their runs when they are due, each exactly once, or reports why there is none.

Whatever may make an event due leads to one look at its group: it was held, the run before it ended, a timer fired, or the search
found it. A look holds the group's lock, publishes what is decided, and waits until the rows have it. All ids derive from the event
and the subscription: a look that was cut off anywhere is done again, and messages that come twice, late, or out of order are one
look too many. A message that led to no look, and a timer that the broker lost, are made up for by the search.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.events import domain
from services.events.ends import end_of
from services.events.holding import plan, state
from services.events.holding.looks import GroupLooks, Look
from services.events.holding.plan import Decision, Group, Held, HeldEvents, LastRun
from services.events.routing import RoutingDeps, requested
from shared import aggregate, tasks
from shared.bus import Bus
from shared.db import Connection, transaction
from shared.envelope import Envelope, caused_id, derived_id, new_id, rfc3339, utc_now
from shared.errors import Conflict, Invalid, MillraceError, NotFound
from shared.leader import lead
from shared.messages import EventFiltered, EventHeld, EventRouted, EventUnroutable, Message, TimerFired, TimerSet
from shared.messages.timer import fired_for, is_foreign
from shared.projected import Projected, Recorded, in_batches, in_shards
from shared.projection import Projection
from shared.pull import Delivered, StreamError
from shared.resources.subscription import SubscriptionEntry
from shared.runs import END_SUBJECTS, RUNS, STATUSES, status_of
from shared.statements import Statement
from shared.values import moment_of

OWNER = "events"
# Of timers' keys: others of this service's are ids.
PREFIX = "held-"
# Seconds between searches, and from when on an event is looked for; a group that goes on waiting is looked at ever more rarely.
PAUSE = 2.0
LATE = timedelta(seconds=2)
# The broker's clock may be ahead of this one by so much; a timer that says more is not believed.
AHEAD = timedelta(minutes=1)
RAREST = 64
LOCK = "events.held-events"
# Until the search looks again where nothing was held for a while, and forgets groups that have been so for long.
BUSY, IDLE = timedelta(seconds=10), timedelta(minutes=1)
# Groups of an organization in one round.
ROUND = 100
# Seconds of one look, which asks several times, and messages of one that are published at the same time.
LONGEST, TOGETHER = 30.0, 50
_log = structlog.get_logger()


class ReleasingDeps(RoutingDeps, Protocol):
    """Dependencies of the releaser."""

    bus: Bus
    engine: AsyncEngine
    database_url: str
    projections: Mapping[str, Projection]

    def holds_events(self) -> bool:
        """Return whether there is a subscription that holds events."""


class Releaser:
    """Looks at groups. Safe to use from several replicas."""

    def __init__(self, deps: ReleasingDeps, *, now: Callable[[], datetime] = utc_now) -> None:
        self._deps = deps
        self._now = now
        self._looks = GroupLooks(self._look_at, self._settled_before)
        # Of the search: by group the round of the next look, and its last pause in rounds; by organization the last group.
        # Where nothing is held, and no subscription holds anything, it pauses for longer.
        self._busy_until = self._idle_until = self._now()
        self._round = 0
        self._rests: dict[str, tuple[int, int]] = {}
        self._after: dict[str, str] = {}

    def followers(self) -> list[Projected]:
        """Return the projections, without rows, that follow held events, ends of runs, and timers."""
        return [
            Projected(name="held", stream="EVENTS", apply=in_batches(self._held), tables=(), filters=("event.*.held",)),
            *in_shards(Projected(name="held-runs", stream=RUNS, apply=self._ended, tables=(), filters=END_SUBJECTS)),
            Projected(name="held-timers", stream="TIMERS", apply=in_batches(self._fired), tables=(), filters=(fired_for(OWNER),)),
        ]

    async def _held(self, batch: Sequence[Recorded], _connection: Connection) -> list[Statement]:
        groups = dict.fromkeys((one.message.org, one.message.held_group) for one in batch if isinstance(one.message, EventHeld))
        if groups:
            self._busy_until = self._now() + BUSY
            await self._deps.projections["events"].caught_up(batch[-1].delivered.sequence)
            self._offer(groups)
        return []

    async def _ended(self, batch: Sequence[Delivered], _incarnation: str, connection: Connection) -> list[Statement]:
        # Every run ends, and hardly one is waited for: nothing is decoded, nor looked up where no subscription holds events.
        if self._deps.holds_events():
            self._offer(await state.groups_of(connection, [one.subject.split(".")[1] for one in batch]))
        return []

    async def _fired(self, batch: Sequence[Recorded], _connection: Connection) -> list[Statement]:
        for one in batch:
            if one.envelope.subject.startswith(PREFIX) and not is_foreign(one.delivered.headers, OWNER):
                self._looks.offer(Look(one.envelope.org, one.envelope.subject.removeprefix(PREFIX), time_of(one.envelope)))
        return []

    def _offer(self, groups: Iterable[tuple[str, str]]) -> None:
        for org, group in groups:
            self._looks.offer(Look(org, group))

    async def _look_at(self, look: Look) -> None:
        """Take a look at a group; no obstacle of one is another's."""
        now = self._now()
        try:
            async with asyncio.timeout(LONGEST):
                await self._look(look, look.at if look.at is not None and now < look.at <= now + AHEAD else now)
        except (MillraceError, StreamError) as error:
            _log.warning("held.interrupted", group=look.group, reason=str(error))  # the search comes by
        except TimeoutError:
            _log.warning("held.interrupted", group=look.group, reason=f"a look took longer than {LONGEST:g} s")
        except Exception:
            _log.exception("held.interrupted", group=look.group)

    async def _settled_before(self, source: str) -> datetime | None:
        async with transaction(self._deps.engine) as connection:
            return await state.unended_since(connection, source)

    async def close(self) -> None:
        """End the looks, and those that were to come."""
        await self._looks.close()

    async def _look(self, look: Look, now: datetime) -> None:
        """Publish what becomes of a group's events. Raises `Unavailable`."""
        async with state.locked(self._deps.engine, look.group) as connection:
            found = await state.read(connection, look.group)
            if found is None:
                return
            before, waiting = found
            subscription = await state.subscription_of(connection, waiting.newest.subscription)
            spec = None if subscription is None else subscription.spec
            head = waiting.first[0] if spec is None or spec.debounce is None else waiting.newest
            last_run: LastRun = "none"
            settled = begun = None
            if spec is not None and spec.ordering is not None:
                last_run = await self._last_run(before, connection)
                settled = await state.settled_before(connection, head)
            if spec is not None and spec.debounce is not None:
                waiting = await state.spanned(connection, look.group, waiting)
                begun = await self._begun(look.group, waiting, connection)
            while True:
                decision = plan.decide(spec, before, waiting, last_run, settled, now, begun=begun)
                sequence = await self._publish(decision, subscription, look.group)
                if sequence:
                    # The next look has to see what this one did.
                    await self._deps.projections["events"].caught_up(sequence)
                if spec is None or spec.debounce is None or not decision.dropped or decision.released:
                    break
                # It is due by all that it held then: what is left of that goes now, whatever has come since.
                rest = await state.read(connection, look.group, waiting.latest)
                if rest is None:
                    break
                waiting = msgspec.structs.replace(waiting, first=rest[1].first, newest=rest[1].newest)
            if decision.look_at is not None:
                timer = TimerSet(key=f"{PREFIX}{look.group}", owner=OWNER, at=rfc3339(decision.look_at))
                await self._deps.bus.publish(self._deps.bus.seal(timer, org=waiting.newest.run_org, id=new_id()))
        if sequence:
            self._looks.progressed(head.source)
        if decision.soon and sequence:
            self._looks.offer(Look(waiting.newest.run_org, look.group))
        elif decision.soon:
            self._looks.wait_for(head.source, Look(waiting.newest.run_org, look.group), head.received_at)

    async def _begun(self, group: str, waiting: HeldEvents, connection: AsyncConnection) -> Held | None:
        """Return the event of a debounced group whose run was asked for by a look that was cut off.

        All that were held before it had been dropped by then, so that it is the earliest; those after it are not of that look.
        """
        if waiting.earliest == waiting.newest.sequence:
            return None
        earliest = await state.at(connection, group, waiting.earliest)
        run = domain.run_id(earliest.event, earliest.subscription)
        is_there = await aggregate.last(self._deps.bus.client, "run", run) or await state.status_of_run(connection, run)
        return earliest if is_there else None

    async def _publish(self, decision: Decision, subscription: SubscriptionEntry | None, group: str) -> int:
        old = "it was held for longer than the bus keeps events"
        ends: list[tuple[Held, Message]] = [
            *((one, EventFiltered(**_of(one), reason=reason, workflow=one.workflow)) for one, reason in decision.dropped),
            *((one, EventUnroutable(**_of(one), reason=old, workflow=one.workflow)) for one in decision.expired),
        ]
        # All of them before a run is asked for: `_begun` builds on that.
        last = max(await tasks.each(TOGETHER, ends, lambda one: self._end(*one)), default=0)
        for one, free_at in decision.released:
            assert subscription is not None  # noqa: S101 - without one everything is dropped
            last = await self._release(one, subscription, group, free_at)
        return last

    async def _release(self, one: Held, subscription: SubscriptionEntry, group: str, free_at: datetime | None) -> int:
        stored = await aggregate.stored_at(self._deps.bus.client, "EVENTS", one.sequence)
        message = None if stored is None else stored.message()
        if stored is None or not isinstance(message, EventHeld):
            reason = "its input is no longer on the bus"
            return await self._end(one, EventUnroutable(**_of(one), reason=reason, workflow=one.workflow))
        run, bus, cause = domain.run_id(one.event, one.subscription), self._deps.bus, stored.envelope
        try:
            workflow = await self._deps.workflow(message.org, subscription.spec.workflow)
            if workflow.version != message.version and message.input_ref is None:
                misfit = domain.misfit(workflow.input_schema, message.input or {})
                if misfit:
                    raise Invalid(f"the input does not fit {workflow.name}: {misfit}")
        except (NotFound, Invalid) as error:
            # A look that was cut off may have asked for it while there was one.
            if await aggregate.last(bus.client, "run", run) is None:
                return await self._end(one, EventUnroutable(**_of(one), reason=error.detail, workflow=subscription.spec.workflow))
        else:
            request = requested(
                run,
                workflow,
                subscription,
                input=message.input,
                input_ref=message.input_ref,
                delivery=message.delivery,
                received_at=message.received_at,
                hops=message.hops,
                scheduled_for=message.scheduled_for,
            )
            id_ = caused_id(cause.id, request, one.subscription)
            # Where there is one, the event was routed at once when the subscription held none, or a look was cut off.
            with contextlib.suppress(Conflict):
                await bus.publish(bus.seal(request, org=message.org, cause=cause, id=id_))
        routed = EventRouted(
            **_of(one),
            workflow=subscription.spec.workflow,
            run=run,
            held_group=group,
            free_at=None if free_at is None else rfc3339(free_at),
        )
        return await bus.publish(bus.seal(routed, org=one.org, cause=cause, id=caused_id(cause.id, routed, one.subscription)))

    async def _end(self, one: Held, message: Message) -> int:
        """Publish an event's end without a run; its id is the same at every look that comes to it."""
        bus = self._deps.bus
        stored = await aggregate.stored_at(bus.client, "EVENTS", one.sequence)
        cause = None if stored is None else stored.envelope
        correlation = one.delivery if cause is None else cause.correlationid
        id_ = derived_id(one.event, one.subscription, "held", type(message).__name__, str(one.sequence))
        return await bus.publish(bus.seal(message, org=one.org, cause=cause, correlation=correlation, id=id_))

    async def _last_run(self, group: Group, connection: AsyncConnection) -> LastRun:
        """Return how the run of the event before stands: by its messages, or by its row when those were purged after its end."""
        if group.run is None:
            return "none"
        end = await end_of(self._deps.bus.client, group.run)
        if end == "goes_on":
            return "goes_on"
        status = await state.status_of_run(connection, group.run) if end is None else status_of(end)
        # Somebody who cancels a run does not want it.
        return "failed" if status not in {None, "cancelled"} and STATUSES[str(status)].retried else "ended"

    async def sweep(self) -> None:
        """Search for ever; an obstacle is logged, once, and waited out. Of several replicas one is active."""
        await lead(self.round, url=self._deps.database_url, service=OWNER, lock=LOCK, pause=PAUSE, interrupted="held.interrupted")

    async def round(self) -> int:
        """Look at groups that hold an event for a while; returns how many there were. Raises `Unavailable`."""
        now = self._now()
        if self._deps.holds_events():
            self._busy_until = now + BUSY
        elif self._busy_until < now < self._idle_until:
            return 0
        self._round += 1
        found = await state.holding(self._deps.engine, self._after, now - LATE, ROUND)
        if found:
            self._busy_until = now + BUSY
        elif now >= self._idle_until:
            self._idle_until = now + IDLE
            await state.forget_idle(self._deps.engine, now - state.IDLE)
        by_org: dict[str, list[str]] = {}
        for org, group in found:
            by_org.setdefault(org, []).append(group)
        self._after = {org: groups[-1] for org, groups in by_org.items() if len(groups) == ROUND}
        # What was not found for so long holds nothing any more, or its organization has very many.
        self._rests = {group: one for group, one in self._rests.items() if self._round - one[0] <= RAREST}
        due = []
        for org, group in found:
            next_round, pause = self._rests.get(group, (0, 0))
            if next_round <= self._round:
                pause = min(2 * pause + 1, RAREST)
                self._rests[group] = self._round + pause + 1, pause
                due.append((org, group))
        self._offer(due)
        return len(due)


def time_of(fired: Envelope) -> datetime | None:
    """Return the time of a timer; None where it says none."""
    try:
        return moment_of(msgspec.json.decode(fired.data, type=TimerFired).at)
    except (msgspec.MsgspecError, ValueError, OverflowError):
        return None


def _of(one: Held) -> dict[str, Any]:
    return {
        "source": one.source,
        "event": one.event,
        "delivery": one.delivery,
        "number": one.number,
        "subscription": one.subscription,
        "subscription_name": one.name,
    }
