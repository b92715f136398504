"""Folds a delivery's messages into what they change of its routing: pure, and the same for any division into batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from shared.messages import EventAccepted, EventFiltered, EventHeld, EventRouted, EventUnroutable
from shared.runs import STATUSES

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
    """What a delivery's messages say of it as a whole. `edited_by` is that of the newest retry, `retries` counts them.

    `outcome` and `reason` are those of a delivery none of whose events has an outcome.
    """

    type: str | None = None
    retried_by: str | None = None
    outcome: str = "accepted"
    reason: str | None = None
    edited_by: str | None = None
    retries: int = 0


class Change(msgspec.Struct, kw_only=True):
    """What messages change of one event of a delivery.

    `made` is the event where it was made, or made again: then of its outcomes of before only those of the subscriptions `kept`
    are left. `outcomes` are the new ones, by subscription, "" where none matched.
    """

    made: EventMade | None = None
    kept: set[str] = set()
    outcomes: dict[str, SubscriptionOutcome] = {}


Said = EventAccepted | EventHeld | EventRouted | EventFiltered | EventUnroutable


def changes(before: Routing, messages: Iterable[Said]) -> tuple[Routing, dict[int, Change]]:
    """Return the routing after more messages, and what they change of its events, by number: whatever else these have told.

    An event that is made again for a retry keeps only the outcomes that the retry skips.
    """
    events: dict[int, Change] = {}
    for message in messages:
        change = events.setdefault(message.number, Change())
        if not isinstance(message, EventAccepted):
            change.outcomes[message.subscription or ""] = _taken(message)
            continue
        skipped = set(message.skip)
        change.kept = skipped if change.made is None else change.kept & skipped
        change.outcomes = {of: taken for of, taken in change.outcomes.items() if of in skipped}
        change.made = EventMade(event=message.event, type=message.type)
        is_new = before.retried_by != message.retried_by and message.retried_by is not None
        before = Routing(
            type=message.type, retried_by=message.retried_by, edited_by=message.edited_by, retries=before.retries + is_new
        )
    return before, events


def statuses(runs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return by id the statuses of a delivery's runs, given as they were asked for; of one that another resumes, the other's."""
    found: dict[str, str] = {}
    for run in reversed(runs):
        found.setdefault(run["id"], run["status"])
        if run["resumes"]:
            found[run["resumes"]] = found[run["id"]]
    return found


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


def number_of(key: str) -> int:
    """Return the number of the event that a key of a delivery's outcomes, `number/subscription`, is about."""
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
