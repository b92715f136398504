"""Folds a delivery's messages into its routing: pure, and the same for any division into batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
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


Said = EventAccepted | EventHeld | EventRouted | EventFiltered | EventUnroutable


def routing(before: Routing, messages: Iterable[Said]) -> Routing:
    """Return the routing after more messages. The first event of a retry keeps only the outcomes that the retry skips.

    However many events and subscriptions a delivery has, a message costs the same; only the whole costs more.
    """
    folding = _Folding(before)
    for message in messages:
        if isinstance(message, EventAccepted):
            folding.accept(message)
        else:
            folding.take(_key(message.number, message.subscription), _taken(message))
        folding.settle()
    return folding.routing()


class _Folding:
    """Takes messages one after the other. What follows from all outcomes together is found once, at the end."""

    def __init__(self, before: Routing) -> None:
        self._last = before
        self._events = dict(before.events)
        self._outcome = before.outcome
        self._retried_by = before.retried_by
        self._retries = before.retries
        # By the event's number as a text, then by the key.
        self._outcomes: dict[str, dict[str, SubscriptionOutcome]] = {}
        self._statuses: Counter[str] = Counter()
        # One that no outcome has any more, of a delivery of an earlier version, or of a retry that goes on; else it is found.
        self._reason: str | None = before.reason
        self._is_kept = False
        for key, taken in before.subscriptions.items():
            self._put(key, taken)

    def accept(self, message: EventAccepted) -> None:
        """Take an event: its outcomes of before go, but for those that it skips."""
        if self._retried_by != message.retried_by:
            self._outcome = "accepted"
            self._retries += message.retried_by is not None
            self._retried_by = message.retried_by
        number, kept = str(message.number), {_key(message.number, one) for one in message.skip}
        self._remove(number, [key for key in self._outcomes.get(number, ()) if key not in kept])
        self._last = msgspec.structs.replace(self._last, type=message.type, edited_by=message.edited_by)
        self._events[number] = EventMade(event=message.event, type=message.type)

    def take(self, key: str, taken: SubscriptionOutcome) -> None:
        """Take an outcome in place of the one of before."""
        number = key.partition("/")[0]
        if key in self._outcomes.get(number, ()):
            self._remove(number, [key])
        self._put(key, taken)

    def settle(self) -> None:
        """Find the outcome after a message."""
        # It is held only as long as one of its subscriptions holds it.
        had = "accepted" if self._outcome == "held" else self._outcome
        self._outcome = max({*self._statuses, had}, key=OUTCOMES.index)
        self._is_kept = self._outcome not in self._statuses and self._outcome != "accepted"

    def routing(self) -> Routing:
        """Return the routing after all messages."""
        subscriptions = {key: taken for outcomes in self._outcomes.values() for key, taken in outcomes.items()}
        times = [taken.retry_at for taken in subscriptions.values() if taken.retry_at is not None]
        return msgspec.structs.replace(
            self._last,
            retried_by=self._retried_by,
            retries=self._retries,
            outcome=self._outcome,
            reason=self._found_reason(),
            subscriptions=subscriptions,
            events=self._events,
            # A delivery of an earlier version does not name its events.
            ended=self._outcome != "accepted" and all(self._outcomes.get(number) for number in self._events),
            retry_at=min(times, default=None),
        )

    def _put(self, key: str, taken: SubscriptionOutcome) -> None:
        self._outcomes.setdefault(key.partition("/")[0], {})[key] = taken
        self._statuses[_status(taken)] += 1

    def _remove(self, number: str, keys: list[str]) -> None:
        left = self._statuses - Counter(_status(self._outcomes[number][key]) for key in keys)
        if self._outcome in self._statuses and self._outcome not in left:
            self._reason = self._found_reason()  # nothing of which it comes is left
        self._statuses = left
        for key in keys:
            del self._outcomes[number][key]

    def _found_reason(self) -> str | None:
        if self._is_kept or self._outcome not in self._statuses:
            return self._reason if self._outcome != "accepted" else None
        found: dict[str, tuple[str, str | None]] = {}
        for outcomes in self._outcomes.values():
            for key, taken in outcomes.items():
                if taken.status not in found or key < found[taken.status][0]:
                    found[taken.status] = key, taken.reason
        if self._outcome == "routed" and "failed" not in found:
            return None
        return next((found[status][1] for status in REASONS if status in found), None)


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
    """Return the number of the event that a key of `Routing.subscriptions` is about."""
    return int(key.partition("/")[0])


def _status(taken: SubscriptionOutcome) -> str:
    return "filtered" if taken.status == "failed" else taken.status


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
