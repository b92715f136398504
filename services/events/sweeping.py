"""Looks after deliveries: tries again what a policy says, and finds those without an end. One replica at a time does it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

import msgspec
import structlog
from sqlalchemy import RowMapping

from services.events import domain, outcomes
from services.events.deliveries import DeliveryDeps, begun
from services.events.parsing import LONGEST_REASON
from services.events.retries import catch_up, events_of, publish_again
from services.events.sandboxed import AdapterLost
from shared import aggregate
from shared.bounded import ArrivalOrder, BoundedTasks
from shared.durables import backlog_of
from shared.envelope import Envelope, derived_id, rfc3339, utc_now
from shared.errors import Invalid, MillraceError, NotFound
from shared.messages import EventAccepted, EventOverdue, EventUnroutable, WebhookReceived
from shared.pull import StreamError
from shared.streams import WORK

MOST = 200
# Organizations whose deliveries are retried at the same time; seconds after which one begins no more of a look's, so that others
# have its place; and the longest that one delivery may take, which asks several times.
AT_ONCE, TURN, LONGEST = 8, 5.0, 60.0
# Seconds between two looks for deliveries without an end; and until a retry that met an obstacle is tried once more.
LOOKED_EVERY = 30.0
PUT_OFF = 60.0
_PARSE = [work for work in WORK if work.messages[0] is WebhookReceived]
_ROUTE = [work for work in WORK if work.messages[0] is EventAccepted]
_FAR = 2**62

_log = structlog.get_logger()


class Sweeper:
    """Retries what is due, and reports what is overdue: what has no end `overdue` seconds after it began."""

    def __init__(self, deps: DeliveryDeps, overdue: float, *, now: Callable[[], float] = monotonic) -> None:
        self._deps = deps
        self._overdue = timedelta(seconds=overdue)
        self._every = min(LOOKED_EVERY, overdue)
        self._now = now
        self._looked_at = float("-inf")
        self._put_off: dict[str, float] = {}
        self._busy: set[str] = set()
        waiting: ArrivalOrder[tuple[str, list[RowMapping]]] = ArrivalOrder()
        self._retrying = BoundedTasks(self._retry_some, AT_ONCE, waiting, lambda of: self._busy.discard(of[0]))
        self._found = 0

    def fact(self) -> dict[str, Any]:
        """Return how many deliveries are overdue, as `/readyz` and `/metrics` show it."""
        return {"overdue": self._found}

    async def once(self) -> int:
        """Begin what there is to be done; returns how many deliveries are to be retried.

        Those of an organization are retried one after the other, beside those of others: a slow one delays its own.
        """
        now = self._now()
        if now - self._looked_at >= self._every:
            self._looked_at = now
            await self._report_overdue()
        self._put_off = {id_: until for id_, until in self._put_off.items() if until > now}
        due = await self._deps.store.due(utc_now(), MOST, without=self._busy, besides=self._put_off)
        if due:
            await catch_up(self._deps)
        by_org: dict[str, list[RowMapping]] = {}
        for row in due:
            by_org.setdefault(row["org"], []).append(row)
        self._busy |= by_org.keys()
        for org, rows in by_org.items():
            self._retrying.offer((org, rows))
        return len(due)

    async def close(self) -> None:
        """End what goes on: it is done again."""
        await self._retrying.drain(0)

    async def _retry_some(self, of: tuple[str, list[RowMapping]]) -> None:
        """Retry deliveries of one organization for a while: those that are left are found again."""
        until = self._now() + TURN
        for row in of[1]:
            if self._now() >= until:
                return
            try:
                async with asyncio.timeout(LONGEST):
                    await self._retry(row, utc_now())
            except (MillraceError, StreamError) as error:
                self._rest(row, str(error))
            except TimeoutError:
                self._rest(row, f"it took longer than {LONGEST:g} s")
            except Exception:
                _log.exception("delivery.bug", delivery=row["id"])
                self._rest(row, "a bug")

    def _rest(self, row: RowMapping, reason: str) -> None:
        self._put_off[row["id"]] = self._now() + PUT_OFF
        _log.warning("delivery.not_retried", delivery=row["id"], reason=reason)

    async def _retry(self, row: RowMapping, now: datetime) -> None:
        """Route a delivery again to the subscriptions whose policy says so now, and to no others.

        Where that is not possible, their try has failed, and the policy says what is next. Raises `Unavailable`.
        """
        retry = derived_id(row["id"], "retry", rfc3339(row["retry_at"]))
        taken = msgspec.convert(row["subscriptions"], dict[str, outcomes.SubscriptionOutcome])
        left = {key: one for key, one in taken.items() if one.retry_at is not None and one.retry_at <= rfc3339(now)}
        first = await self._first(row)
        if first is None:
            await self._fail(row, left, "its body is no longer on the bus", retry, final=True)
            return
        events, reason = [], "its webhook makes this event no more"
        try:
            async for event in events_of(first, self._deps, retry=retry):
                due = outcomes.due(taken, event.number, rfc3339(now))
                if due:
                    matching = {one.id for one in domain.matching(self._deps.subscriptions(event.source), event.type)}
                    tries = 1 + max(one.tries for one in due.values())
                    events.append(msgspec.structs.replace(event, skip=sorted(matching - due.keys()), tries=tries))
        except (Invalid, NotFound, AdapterLost) as error:
            events, reason = [], error.detail
        await publish_again(events, first, self._deps)
        again = {event.number for event in events}
        await self._fail(row, {key: one for key, one in left.items() if outcomes.number_of(key) not in again}, reason, retry)

    async def _fail(
        self, row: RowMapping, failed: dict[str, outcomes.SubscriptionOutcome], reason: str, retry: str, *, final: bool = False
    ) -> None:
        """Record that events could not be routed again to these subscriptions; `final`: they never can."""
        bus, policies = self._deps.bus, {one.id: one.spec.retry for one in self._deps.subscriptions(row["source"])}
        for key, one in failed.items():
            number, tries = outcomes.number_of(key), one.tries + 1
            at = None if final else domain.next_try(policies.get(one.subscription or "", ""), tries, utc_now())
            said = EventUnroutable(
                source=row["source"],
                event=row["events"].get(str(number), {}).get("event") or domain.event_id(row["id"], number, row["retried_by"]),
                delivery=row["id"],
                number=number,
                subscription=one.subscription or "",
                subscription_name=one.name,
                workflow=one.workflow or "",
                reason=f"it was tried again: {reason}"[:LONGEST_REASON],
                retry_at=None if at is None else rfc3339(at),
                tries=tries,
            )
            await bus.publish(bus.seal(said, org=row["org"], id=derived_id(retry, key), correlation=row["correlation_id"]))

    async def _first(self, row: RowMapping) -> Envelope | None:
        """Return the message that a retry is made of: that which began the delivery, or the event that somebody edited since."""
        if row["edited_by"] is None:
            return await begun(row, self._deps)
        stored = await aggregate.stored_at(self._deps.bus.client, "EVENTS", row["accepted"])
        return None if stored is None else stored.envelope

    async def _report_overdue(self) -> None:
        client = self._deps.bus.client
        waiting = await asyncio.gather(*(backlog_of(client, work) for work in (*_PARSE, *_ROUTE)))
        # Before these sequences nothing waits to be delivered to a handler.
        parsed, routed = (
            min((one.first for one in part if one.first is not None), default=_FAR)
            for part in (waiting[: len(_PARSE)], waiting[len(_PARSE) :])
        )
        for row in await self._deps.store.unended(utc_now() - self._overdue, parsed, routed, MOST):
            overdue = EventOverdue(
                source=row["source"],
                delivery=row["id"],
                received_at=rfc3339(row["received_at"]),
                since=rfc3339(row["since"]),
                reason=_why(row, self._overdue),
                adapter=row["deferred_for"],
            )
            id_ = derived_id(row["id"], "overdue", overdue.since)
            await self._deps.bus.publish(self._deps.bus.seal(overdue, org=row["org"], id=id_, correlation=row["correlation_id"]))
            fields = {"delivery": row["id"], "source": row["source"], "since": overdue.since}
            if overdue.adapter is None:
                _log.error("delivery.overdue", **fields)
            else:
                _log.warning("delivery.still_deferred", adapter=overdue.adapter, **fields)
        self._found = await self._deps.store.overdue()


def _why(row: RowMapping, after: timedelta) -> str:
    """Return why a delivery has no end so long after it began: it waits as it is meant to, or nobody knows of anything."""
    long = f"for {after.total_seconds():.0f} s or more"
    if row["deferred_for"] is not None:
        reason = f"it is deferred {long}, and handled once the adapter {row['deferred_for']} of its workspace can be asked"
        return f"{reason}: {row['deferred']}"[:LONGEST_REASON]
    what = f"its event {row['type']} was accepted" if row["accepted"] is not None else "it was received"
    return f"{what}, and nothing has come of it {long}"
