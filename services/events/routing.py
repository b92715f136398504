"""Folds a delivery's messages into its routing: pure, and the same for any division into batches."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.messages import EventAccepted, EventFiltered, EventHeld, EventRouted, EventUnroutable
from shared.runs import STATUSES

# Of several outcomes of a delivery the one that needs a person counts.
OUTCOMES = ("accepted", "filtered", "routed", "held", "unroutable")
# Outcomes of a subscription; a delivery's reason is the first that applies. One whose filter failed was not routed.
REASONS = ("unroutable", "held", "failed", "filtered")
# A run of such a status goes on or has succeeded: a retry does not ask for it again.
DONE = {name for name, status in STATUSES.items() if not status.retried}


class SubscriptionOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of an event with one subscription (None: none matched). `status`: routed, held, filtered, unroutable, failed."""

    subscription: str | None
    name: str | None
    workflow: str | None
    status: str
    reason: str | None = None
    run: str | None = None
    retry_at: str | None = None
    tries: int = 0


class EventMade(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a delivery, by its number there; `event` is its newest id."""

    event: str
    type: str


class Routing(msgspec.Struct, frozen=True, kw_only=True):
    """The routing of a delivery. `subscriptions` are by the event's number within the delivery and the subscription's id.

    `ended`: each of its `events` has an outcome. `edited_by` is that of the newest retry, `retries` counts them. `retry_at` is when
    the first of its subscriptions is tried again by its policy.
    """

    type: str | None = None
    retried_by: str | None = None
    outcome: str = "accepted"
    reason: str | None = None
    subscriptions: dict[str, SubscriptionOutcome] = {}
    events: dict[str, EventMade] = {}
    ended: bool = False
    edited_by: str | None = None
    retries: int = 0
    retry_at: str | None = None


def routing(before: Routing, message: EventAccepted | EventHeld | EventRouted | EventFiltered | EventUnroutable) -> Routing:
    """Return the routing after one more message. The first event of a retry keeps only the outcomes that the retry skips."""
    if isinstance(message, EventAccepted):
        again = before.retried_by != message.retried_by
        kept = {_key(message.number, one) for one in message.skip}
        left = {
            key: taken
            for key, taken in before.subscriptions.items()
            if key in kept or not key.startswith(_key(message.number, None))
        }
        begun = msgspec.structs.replace(
            before,
            type=message.type,
            retried_by=message.retried_by,
            outcome="accepted" if again else before.outcome,
            events=before.events | {str(message.number): EventMade(event=message.event, type=message.type)},
            edited_by=message.edited_by,
            retries=before.retries + (again and message.retried_by is not None),
        )
        return _with_subscriptions(begun, left)
    return _with_subscriptions(before, before.subscriptions | {_key(message.number, message.subscription): _taken(message)})


def done(subscriptions: dict[str, SubscriptionOutcome], number: int, runs: dict[str, str]) -> set[str]:
    """Return the subscriptions that hold an event, or whose run of it has succeeded or goes on; `runs` are statuses by id."""
    return {
        taken.subscription
        for key, taken in subscriptions.items()
        if key.startswith(_key(number, None)) and taken.subscription
        if taken.status == "held" or (taken.run and runs.get(taken.run, "queued") in DONE)
    }


def due(subscriptions: dict[str, SubscriptionOutcome], number: int, now: str) -> dict[str, SubscriptionOutcome]:
    """Return by id the subscriptions that an event is to be routed to once more, by their policies, at a time (RFC 3339)."""
    return {
        taken.subscription: taken
        for key, taken in subscriptions.items()
        if key.startswith(_key(number, None)) and taken.subscription and taken.retry_at is not None and taken.retry_at <= now
    }


def _with_subscriptions(before: Routing, subscriptions: dict[str, SubscriptionOutcome]) -> Routing:
    each = [subscriptions[key] for key in sorted(subscriptions)]
    found = {"filtered" if taken.status == "failed" else taken.status for taken in each}
    # It is held only as long as one of its subscriptions holds it.
    outcome = max(found | ({before.outcome} - {"held"} or {"accepted"}), key=OUTCOMES.index)
    reasons = (taken.reason for status in REASONS for taken in each if taken.status == status)
    # A delivery of an earlier version has an outcome and no subscriptions.
    reason = before.reason if outcome not in found and outcome != "accepted" else None
    if outcome in found:
        first = next(reasons, None)
        reason = None if outcome == "routed" and not any(taken.status == "failed" for taken in each) else first
    had = {key.partition("/")[0] for key in subscriptions}
    # A delivery of an earlier version does not name its events.
    ended = outcome != "accepted" and all(number in had for number in before.events)
    times = [taken.retry_at for taken in each if taken.retry_at is not None]
    return msgspec.structs.replace(
        before, outcome=outcome, reason=reason, subscriptions=subscriptions, ended=ended, retry_at=min(times, default=None)
    )


def number_of(key: str) -> int:
    """Return the number of the event that a key of `Routing.subscriptions` is about."""
    return int(key.partition("/")[0])


def _key(number: int, subscription: str | None) -> str:
    return f"{number}/{subscription or ''}"


def _taken(message: EventHeld | EventRouted | EventFiltered | EventUnroutable) -> SubscriptionOutcome:
    fields: dict[str, Any] = {"subscription": message.subscription, "name": message.subscription_name, "workflow": message.workflow}
    match message:
        case EventHeld():
            return SubscriptionOutcome(
                **fields, status="held", reason=f"{message.subscription_name} holds it with others{_keyed(message)}"
            )
        case EventRouted():
            return SubscriptionOutcome(**fields, status="routed", run=message.run)
        case EventFiltered():
            return SubscriptionOutcome(**fields, status="failed" if message.failed else "filtered", reason=message.reason)
        case EventUnroutable():
            return SubscriptionOutcome(
                **fields, status="unroutable", reason=message.reason, retry_at=message.retry_at, tries=message.tries
            )


def _keyed(message: EventHeld) -> str:
    return f" of the key {message.key}" if message.key else ""
