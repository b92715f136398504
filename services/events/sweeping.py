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

from services.events import domain, routing
from services.events.deliveries import DeliveryDeps, begun
from services.events.retries import catch_up, events_of, publish_again
from shared import aggregate
from shared.durables import backlog_of
from shared.envelope import Envelope, derived_id, rfc3339, utc_now
from shared.errors import MillraceError, NotFound
from shared.messages import EventAccepted, EventOverdue, WebhookReceived
from shared.streams import WORK

MOST = 200
# Seconds between two looks for deliveries without an end; and until a retry that failed is tried once more.
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
        self._found = 0

    def fact(self) -> dict[str, Any]:
        """Return how many deliveries are overdue, as `/readyz` and `/metrics` show it."""
        return {"overdue": self._found}

    async def once(self) -> int:
        """Do what there is to be done; returns how many deliveries were retried."""
        now = self._now()
        if now - self._looked_at >= self._every:
            self._looked_at = now
            await self._report_overdue()
        self._put_off = {id_: until for id_, until in self._put_off.items() if until > now}
        due = [row for row in await self._deps.store.due(utc_now(), MOST) if row["id"] not in self._put_off]
        if due:
            await catch_up(self._deps)
        for row in due:
            try:
                await self._retry(row, utc_now())
            except MillraceError as error:  # also of an adapter that does not answer: the others are not to wait for it
                self._put_off[row["id"]] = now + PUT_OFF
                _log.warning("delivery.not_retried", delivery=row["id"], reason=error.detail)
        return len(due)

    async def _retry(self, row: RowMapping, now: datetime) -> None:
        """Route a delivery again to the subscriptions whose policy says so now, and to no others."""
        first = await self._first(row)
        if first is None:
            raise NotFound("its body is no longer on the bus")
        retry = derived_id(row["id"], "retry", rfc3339(row["retry_at"]))
        taken = msgspec.convert(row["subscriptions"], dict[str, routing.SubscriptionOutcome])
        events = []
        async for event in events_of(first, self._deps, retry=retry):
            due = routing.due(taken, event.number, rfc3339(now))
            if due:
                matching = {one.id for one in domain.matching(self._deps.subscriptions(event.source), event.type)}
                tries = 1 + max(one.tries for one in due.values())
                events.append(msgspec.structs.replace(event, skip=sorted(matching - due.keys()), tries=tries))
        await publish_again(events, first, self._deps)

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
            what = f"its event {row['type']} was accepted" if row["accepted"] is not None else "it was received"
            reason = f"{what}, and nothing has come of it for {self._overdue.total_seconds():.0f} s or more"
            overdue = EventOverdue(
                source=row["source"],
                delivery=row["id"],
                received_at=rfc3339(row["received_at"]),
                since=rfc3339(row["since"]),
                reason=reason,
            )
            id_ = derived_id(row["id"], "overdue", overdue.since)
            await self._deps.bus.publish(self._deps.bus.seal(overdue, org=row["org"], id=id_, correlation=row["correlation_id"]))
            _log.error("delivery.overdue", delivery=row["id"], source=row["source"], since=overdue.since)
        self._found = await self._deps.store.overdue()
