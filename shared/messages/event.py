"""Messages of the events service about routing."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.messages.declaration import Message, message

_ALERT = "alert-"


def alert_chain(delivery: str) -> str:
    """Return the correlation id of all that comes of the alert with this delivery."""
    return _ALERT + delivery


def is_of_alert(correlation: str) -> bool:
    """Return whether an alert began a chain: another alert about what comes of it might never end."""
    return correlation.startswith(_ALERT)


@message("event.accepted", key="source", by="events", suffix="lane")
class EventAccepted(Message, frozen=True, kw_only=True):
    """The events service made one normalised event of a delivery. `event` is its id, new for every retry of the delivery.

    Data of more than 256 KiB as JSON is in the bucket `bodies` under `data_ref`. `emitted_by` names the emitter of an event that
    no webhook brought: such a delivery begins with this message. `hops` counts the runs before it, each started by the one before;
    `chain` is the correlation id that all of them have, where a run emitted it.
    `number` is its place among the delivery's events; a retry does not route it to the subscriptions of `skip`. `lane` is that of
    its webhook. `edited_by` put data of their own in place of the webhook's. `tries` counts the retries that a policy asked for.
    `scheduled_for` is the time of the schedule that emitted it (RFC 3339).
    """

    source: str
    source_name: str
    event: str
    delivery: str
    type: str
    headers: dict[str, str]
    received_at: str
    data: Any = None
    data_ref: str | None = None
    retried_by: str | None = None
    emitted_by: str | None = None
    hops: int = 0
    chain: str | None = None
    number: int = 0
    skip: list[str] = msgspec.field(default_factory=list)
    lane: str | None = None
    edited_by: str | None = None
    tries: int = 0
    scheduled_for: str | None = None

    def chain_begun(self) -> str | None:
        """Return the chain of an alert."""
        return self.chain if self.chain is not None and is_of_alert(self.chain) else None


@message("event.held", key="source", by="events")
class EventHeld(Message, frozen=True, kw_only=True):
    """A subscription wants an event and holds it: by its ordering, its rate or its debounce the run may have to wait for others.

    `held_group` stands for the events of the subscription with this `key`, a JSON value as far as people are shown it. `org` is the
    organization that the run will have; its input, made for the workflow's `version`, of more than 256 KiB is under `input_ref`.
    It ends in `event.routed`, `.filtered` or `.unroutable`.
    """

    source: str
    event: str
    delivery: str
    subscription: str
    subscription_name: str
    workflow: str
    version: str
    org: str
    key: str
    held_group: str
    received_at: str
    number: int = 0
    input: Any = None
    input_ref: str | None = None
    hops: int = 0
    scheduled_for: str | None = None


@message("event.routed", key="source", by="events")
class EventRouted(Message, frozen=True, kw_only=True):
    """events has matched an event to a subscription and asked for its run.

    Of one that was held `held_group` is the group, which by its rate is as good as unused at `free_at` (RFC 3339).
    """

    source: str
    event: str
    delivery: str
    subscription: str
    workflow: str
    run: str
    number: int = 0
    subscription_name: str | None = None
    held_group: str | None = None
    free_at: str | None = None


@message("event.filtered", key="source", by="events")
class EventFiltered(Message, frozen=True, kw_only=True):
    """No subscription wanted this event; `reason` gives the reason, by subscription where there was one.

    `failed`: the subscription's filter could not be evaluated.
    """

    source: str
    event: str
    delivery: str
    reason: str
    subscription: str | None = None
    number: int = 0
    subscription_name: str | None = None
    workflow: str | None = None
    failed: bool = False


@message("event.unroutable", key="source", by="events")
class EventUnroutable(Message, frozen=True, kw_only=True):
    """A subscription wanted this event and its run could not be asked for; retrying the delivery tries again.

    By the subscription's policy that is done at `retry_at` (RFC 3339); `tries` counts how often it was.
    """

    source: str
    event: str
    delivery: str
    subscription: str
    workflow: str
    reason: str
    number: int = 0
    subscription_name: str | None = None
    retry_at: str | None = None
    tries: int = 0


@message("event.deferred", key="source", by="events")
class EventDeferred(Message, frozen=True, kw_only=True):
    """A webhook waits for the code of its organization's own `adapter`, which could not make its events: `reason` says why.

    It ends in `event.resumed`, or in a dead letter.
    """

    source: str
    delivery: str
    adapter: str
    received_at: str
    reason: str


@message("event.resumed", key="source", by="events")
class EventResumed(Message, frozen=True, kw_only=True):
    """All events of a webhook that was deferred have been accepted."""

    source: str
    delivery: str
    adapter: str


@message("event.overdue", key="source", by="events")
class EventOverdue(Message, frozen=True, kw_only=True):
    """A delivery has no end since `since` (RFC 3339), longer than any should take, and nothing of it waits to be handled.

    One that is deferred waits for the `adapter` of its workspace, and for nothing else.
    """

    source: str
    delivery: str
    received_at: str
    since: str
    reason: str
    adapter: str | None = None
