"""Folds a delivery's messages into its routing: pure, and the same for any division into batches."""

from __future__ import annotations

import msgspec

from shared.messages import EventAccepted, EventFiltered, EventRouted, EventUnroutable
from shared.runs import STATUSES

# Of several outcomes of a delivery the one that needs a person counts.
OUTCOMES = ("accepted", "filtered", "routed", "unroutable")
# Outcomes of a subscription; a delivery's reason is the first that applies. One whose filter failed was not routed.
REASONS = ("unroutable", "failed", "filtered")
# A run of such a status goes on or has succeeded: a retry does not ask for it again.
DONE = {name for name, status in STATUSES.items() if not status.retried}


class SubscriptionOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of an event with one subscription (None: none matched). `status`: routed, filtered, unroutable, failed."""

    subscription: str | None
    name: str | None
    workflow: str | None
    status: str
    reason: str | None = None
    run: str | None = None


class Routing(msgspec.Struct, frozen=True, kw_only=True):
    """The routing of a delivery. `subscriptions` are by the event's number within the delivery and the subscription's id."""

    type: str | None = None
    retried_by: str | None = None
    outcome: str = "accepted"
    reason: str | None = None
    subscriptions: dict[str, SubscriptionOutcome] = {}


def routing(before: Routing, message: EventAccepted | EventRouted | EventFiltered | EventUnroutable) -> Routing:
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
            before, type=message.type, retried_by=message.retried_by, outcome="accepted" if again else before.outcome
        )
        return _with_subscriptions(begun, left)
    return _with_subscriptions(before, before.subscriptions | {_key(message.number, message.subscription): _taken(message)})


def done(subscriptions: dict[str, SubscriptionOutcome], number: int, runs: dict[str, str]) -> set[str]:
    """Return the subscriptions whose run of an event has succeeded or goes on; `runs` are statuses by id."""
    return {
        taken.subscription
        for key, taken in subscriptions.items()
        if key.startswith(_key(number, None)) and taken.subscription and taken.run and runs.get(taken.run, "queued") in DONE
    }


def _with_subscriptions(before: Routing, subscriptions: dict[str, SubscriptionOutcome]) -> Routing:
    each = [subscriptions[key] for key in sorted(subscriptions)]
    found = {"filtered" if taken.status == "failed" else taken.status for taken in each}
    outcome = max(found | {before.outcome}, key=OUTCOMES.index)
    reasons = (taken.reason for status in REASONS for taken in each if taken.status == status)
    # A delivery of an earlier version has an outcome and no subscriptions.
    reason = before.reason if outcome not in found and outcome != "accepted" else None
    if outcome in found:
        first = next(reasons, None)
        reason = None if outcome == "routed" and not any(taken.status == "failed" for taken in each) else first
    return msgspec.structs.replace(before, outcome=outcome, reason=reason, subscriptions=subscriptions)


def _key(number: int, subscription: str | None) -> str:
    return f"{number}/{subscription or ''}"


def _taken(message: EventRouted | EventFiltered | EventUnroutable) -> SubscriptionOutcome:
    fields = {"subscription": message.subscription, "name": message.subscription_name, "workflow": message.workflow}
    match message:
        case EventRouted():
            return SubscriptionOutcome(**fields, status="routed", run=message.run)
        case EventFiltered():
            return SubscriptionOutcome(**fields, status="failed" if message.failed else "filtered", reason=message.reason)
        case EventUnroutable():
            return SubscriptionOutcome(**fields, status="unroutable", reason=message.reason)
