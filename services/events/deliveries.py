"""Questions and commands in: deliveries, their retries, and deliveries that begin with an emitted event."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec
from sqlalchemy import RowMapping

from services.events import domain, routing
from services.events.handlers import HandlerDeps, accepted_of
from services.events.store import EventsStore
from shared import aggregate
from shared.asking import Questions
from shared.bus import Bus
from shared.envelope import Envelope, derived_id, open_message, rfc3339, utc_now
from shared.errors import Conflict, Invalid, NotFound, TooMany, Unavailable
from shared.messages import EventAccepted, WebhookReceived
from shared.messages.declaration import declaration_of
from shared.owners.rows import ResourceRows
from shared.projection import Projection
from shared.pull import StreamError, api_request
from shared.questions import MOST_ITEMS, Position, fitting
from shared.questions.events import (
    DeliveriesPosition,
    DeliveryList,
    DeliveryRun,
    DeliveryView,
    EmitEvent,
    Emitted,
    GetDelivery,
    ListDeliveries,
    RetryDelivery,
    SubscriptionTaken,
)

# Seconds that a retry waits, at most, for the rows of each stream.
CAUGHT_UP = 1.0
# Emitted events of one organization that may wait to be routed, among the webhooks of all others: a second's work.
MOST_UNROUTED = 500
# Seconds after which a run that would emit more is to ask again.
LATER = 0.5


class DeliveryDeps(HandlerDeps, Protocol):
    """Further dependencies of these questions and commands."""

    bus: Bus
    store: EventsStore
    resources: ResourceRows
    followed: list[Projection]


async def list_deliveries(question: ListDeliveries, deps: DeliveryDeps) -> DeliveryList:
    """Return a page of deliveries, newest first."""
    limit = question.page.within(MOST_ITEMS)
    rows = await deps.store.deliveries(
        question.org, question.status, question.source, question.id, question.page.before(), limit + 1
    )
    items = fitting([delivery_view(row) for row in rows[:limit]])
    more = f"{items[-1].received_at}|{items[-1].id}" if len(rows) > len(items) else None
    return DeliveryList(items, more)


async def get_delivery(question: GetDelivery, deps: DeliveryDeps) -> DeliveryView:
    """Return one delivery."""
    row = await deps.store.delivery(question.org, question.id)
    if row is None:
        raise NotFound(f"there is no delivery {question.id}")
    return delivery_view(row)


async def deliveries_position(question: DeliveriesPosition, deps: DeliveryDeps) -> Position:
    """Return how far the rows of deliveries have come in a stream."""
    return await deps.store.position(question.stream)


async def retry_delivery(command: RetryDelivery, deps: DeliveryDeps) -> DeliveryView:
    """Make a delivery's events again, as new ones, for the subscriptions that have not had their run of it."""
    await catch_up(deps)
    row = await deps.store.delivery(command.org, command.delivery)
    if row is None or (row["sequence"] is None and row["emitted"] is None):
        raise NotFound(f"there is no delivery {command.delivery}")
    stream, sequence = ("EVENTS", row["emitted"]) if row["sequence"] is None else ("WEBHOOKS", row["sequence"])
    stored = await aggregate.stored_at(deps.bus.client, stream, sequence)
    if stored is None:
        raise NotFound(f"the body of delivery {command.delivery} is no longer on the bus")
    left_of = None if command.everything else row
    events = [event async for event in again(stored.envelope, deps, retry=command.id, row=left_of)]
    if not events and row["retried_by"] != command.id:
        raise Conflict(
            f"no run of delivery {command.delivery} is to be repeated: each has succeeded or goes on; all=true repeats all"
        )
    await publish_again(events, stored.envelope, deps)
    return delivery_view(row)


async def publish_again(events: list[EventAccepted], first: Envelope, deps: DeliveryDeps) -> None:
    """Store events that are made again of the message `first`, which caused them."""
    for event in events:
        await deps.bus.publish(deps.bus.seal(event, org=first.org, cause=first, id=derived_id(event.event, "accepted")))


async def catch_up(deps: DeliveryDeps) -> None:
    """Wait for the rows of all messages on the bus by now: they come a moment after. Raises `Unavailable`."""
    for projection in deps.followed:
        try:
            info = await api_request(deps.bus.client, f"$JS.API.STREAM.INFO.{projection.stream}", None)
        except StreamError as error:
            raise Unavailable(f"stream {projection.stream}: {error.description}") from error
        await projection.caught_up(int(info["state"]["last_seq"]), timeout=CAUGHT_UP)


def _left(event: EventAccepted, row: RowMapping, deps: DeliveryDeps) -> EventAccepted | None:
    """Return the event with the subscriptions that it is not routed to again; None where those are all that want it."""
    runs = {run["id"]: run["status"] for run in row["runs"]}
    matching = domain.matching(deps.subscriptions(event.source), event.type)
    # Deliveries of an earlier version do not name the subscription of a run; its id shows it.
    earlier = domain.event_id(event.delivery, event.number, row["retried_by"])
    derived = {one.id for one in matching if runs.get(domain.run_id(earlier, one.id)) in routing.DONE}
    skip = derived | routing.done(msgspec.convert(row["subscriptions"], dict[str, routing.SubscriptionOutcome]), event.number, runs)
    if matching and all(one.id in skip for one in matching):
        return None
    return msgspec.structs.replace(event, skip=sorted(skip))


async def again(first: Envelope, deps: DeliveryDeps, *, retry: str, row: RowMapping | None) -> AsyncIterator[EventAccepted]:
    """Yield the events of a webhook, or an event, with ids of their own; of a delivery's `row` only for those without their run.

    Raises `Invalid` where a webhook still makes none.
    """
    async for event in _made_again(first, deps, retry=retry):
        left = event if row is None else _left(event, row, deps)
        if left is not None:
            yield left


async def _made_again(first: Envelope, deps: DeliveryDeps, *, retry: str) -> AsyncIterator[EventAccepted]:
    if first.type == declaration_of(WebhookReceived).type:
        async for event in accepted_of(open_message(first, WebhookReceived), deps, retry=retry):
            yield event
    else:
        event = open_message(first, EventAccepted)
        yield msgspec.structs.replace(event, event=domain.event_id(event.delivery, event.number, retry), retried_by=retry)


async def emit_event(command: EmitEvent, deps: DeliveryDeps) -> Emitted:
    """Let a topic have an event. All ids derive from the command's: the broker, and later the delivery's row, know it again."""
    delivery = derived_id(command.id, "delivery", command.org)
    topic = await deps.resources.named("source", command.org, command.source)
    known = await deps.store.emitted(command.org, delivery, MOST_UNROUTED)
    event = domain.emitted(command, topic, delivery, rfc3339(utc_now()), again=known["delivery"] is not None)
    answer = Emitted(event.event, delivery)
    if known["delivery"] is not None:
        await _compare(event, known["emitted"], deps)
        return answer
    if command.run is not None:
        if event.chain is not None:
            await deps.check_chain(command.org, event.chain, emits=True)
        if known["unrouted"] >= MOST_UNROUTED:
            detail = f"{MOST_UNROUTED} events that runs of this organization emitted wait to be routed"
            raise TooMany(detail, retry_after=LATER)
    sealed = deps.bus.seal(
        event,
        org=command.org,
        id=derived_id(event.event, "accepted"),
        correlation=command.correlation_id,
        causation=command.causation_id,
    )
    ack = await deps.bus.journal.publish(sealed)
    if ack.duplicate:
        await _compare(event, ack.sequence, deps)
    return answer


async def _compare(event: EventAccepted, sequence: int | None, deps: DeliveryDeps) -> None:
    """Raise `Invalid` when the command's id stood for another event, as far as the bus still knows."""
    stored = None if sequence is None else await aggregate.stored_at(deps.bus.client, "EVENTS", sequence)
    if stored is None:
        return
    earlier = open_message(stored.envelope, EventAccepted)
    if (earlier.source, earlier.type, earlier.data) != (event.source, event.type, event.data):
        raise Invalid("this id was used for another event")


def delivery_view(row: RowMapping) -> DeliveryView:
    """Return the story of a delivery."""
    return DeliveryView(
        id=row["id"],
        source=row["source"],
        org=row["org"],
        type=row["type"],
        status=row["status"],
        reason=row["reason"],
        runs=[DeliveryRun(**run) for run in row["runs"]],
        subscriptions=[
            SubscriptionTaken(**taken) for _, taken in sorted(row["subscriptions"].items()) if taken["subscription"] is not None
        ],
        received_at=rfc3339(row["received_at"]),
        correlation_id=row["correlation_id"],
    )


QUESTIONS: Questions = {
    ListDeliveries: list_deliveries,
    GetDelivery: get_delivery,
    RetryDelivery: retry_delivery,
    EmitEvent: emit_event,
    DeliveriesPosition: deliveries_position,
}
