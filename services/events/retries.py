"""Questions and commands in: deliveries are routed again, as they came or with other data."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence

import msgspec
from sqlalchemy import RowMapping

from services.events import domain, outcomes
from services.events.adapters.webhook import ParsedEvent, checked_event
from services.events.deliveries import DeliveryDeps, begun, delivery_view
from services.events.letter_ends import end_repaired
from services.events.parsing import accepted_of, by_reference
from shared.asking import Questions
from shared.envelope import Envelope, derived_id, open_message
from shared.errors import Conflict, Invalid, NotFound, Problem, Unavailable
from shared.messages import EventAccepted, WebhookReceived
from shared.messages.declaration import declaration_of
from shared.pull import StreamError, api_request
from shared.questions.events import DeliveryView, EventEdit, RetryDelivery

# Seconds that a retry waits, at most, for the rows of each stream.
CAUGHT_UP = 1.0


async def retry_delivery(command: RetryDelivery, deps: DeliveryDeps) -> DeliveryView:
    """Make a delivery's events again, as new ones, for the subscriptions that have not had their run of it."""
    await catch_up(deps)
    row = await deps.store.delivery(command.org, command.delivery)
    if row is None:
        raise NotFound(f"there is no delivery {command.delivery}")
    first = await begun(row, deps)
    if first is None:
        raise NotFound(f"the body of delivery {command.delivery} is no longer on the bus")
    # Those that there are before: an event that dies again has another one.
    letters: Sequence[RowMapping] = await deps.letters.open_of(row["org"], row["id"])
    if command.edit is not None:
        event, others = await _edited(first, command.edit, deps, retry=command.id, actor=command.actor)
        events = [event]
        if others:
            made = row["events"].get(str(event.number))
            letters = [one for one in letters if made and one["message"] == derived_id(made["event"], "accepted")]
    else:
        left_of = None if command.everything else row
        events = [event async for event in again(first, deps, retry=command.id, row=left_of)]
    if not events and row["retried_by"] != command.id:
        raise Conflict(
            f"no run of delivery {command.delivery} is to be repeated: each has succeeded or goes on; all=true repeats all"
        )
    await publish_again(events, first, deps)
    if row["retried_by"] != command.id:
        await end_repaired(letters, deps.bus, retry=command.id, actor=command.actor)
    return delivery_view(row)


async def publish_again(events: list[EventAccepted], first: Envelope, deps: DeliveryDeps) -> None:
    """Store events that are made again of the message `first`, which caused them."""
    for event in events:
        await deps.bus.publish(deps.bus.seal(event, org=first.org, cause=first, id=derived_id(event.event, "accepted")))


async def catch_up(deps: DeliveryDeps, streams: Collection[str] | None = None) -> bool:
    """Wait for the rows of all messages on the bus by now, or of some streams: a moment after. False if it took too long.

    Raises `Unavailable`.
    """
    are_there = True
    for projection in (one for one in deps.followed if streams is None or one.stream in streams):
        try:
            info = await api_request(deps.bus.client, f"$JS.API.STREAM.INFO.{projection.stream}", None)
        except StreamError as error:
            raise Unavailable(f"stream {projection.stream}: {error.description}") from error
        are_there &= await projection.caught_up(int(info["state"]["last_seq"]), timeout=CAUGHT_UP)
    return are_there


def _left(event: EventAccepted, row: RowMapping, deps: DeliveryDeps) -> EventAccepted | None:
    """Return the event with the subscriptions that it is not routed to again; None where those are all that want it."""
    runs = outcomes.statuses(row["runs"])
    matching = domain.matching(deps.subscriptions(event.source), event.type)
    # Deliveries of an earlier version do not name the subscription of a run; its id shows it.
    earlier = domain.event_id(event.delivery, event.number, row["retried_by"])
    derived = {one.id for one in matching if runs.get(domain.run_id(earlier, one.id)) in outcomes.DONE}
    skip = derived | outcomes.done(
        msgspec.convert(row["subscriptions"], dict[str, outcomes.SubscriptionOutcome]), event.number, runs
    )
    if matching and all(one.id in skip for one in matching):
        return None
    return msgspec.structs.replace(event, skip=sorted(skip))


async def again(first: Envelope, deps: DeliveryDeps, *, retry: str, row: RowMapping | None) -> AsyncIterator[EventAccepted]:
    """Yield the events of a webhook, or an event, with ids of their own; of a delivery's `row` only for those without their run.

    Raises `Invalid` where a webhook still makes none.
    """
    async for event in events_of(first, deps, retry=retry):
        left = event if row is None else _left(event, row, deps)
        if left is not None:
            yield left


async def events_of(first: Envelope, deps: DeliveryDeps, *, retry: str | None) -> AsyncIterator[EventAccepted]:
    """Yield the events of the message that began a delivery; those of a retry have ids of their own."""
    if first.type == declaration_of(WebhookReceived).type:
        async for event in accepted_of(open_message(first, WebhookReceived), deps, retry=retry):
            yield event
    else:
        event = open_message(first, EventAccepted)
        yield msgspec.structs.replace(event, event=domain.event_id(event.delivery, event.number, retry), retried_by=retry)


async def _edited(first: Envelope, edit: EventEdit, deps: DeliveryDeps, *, retry: str, actor: str) -> tuple[EventAccepted, int]:
    """Return an event of a delivery with other data, and how many others it has.

    Where its webhook makes none, it needs a type as well.
    """
    try:
        events = [event async for event in events_of(first, deps, retry=retry)]
    except Invalid as error:
        if edit.number:
            raise
        if edit.type is None:
            detail = f"no event can be made of this webhook, so that the edit needs a `type` beside its `data`: {error.detail}"
            raise Invalid(detail, errors=(Problem("edit.type", "is needed: no event can be made of this webhook"),)) from error
        events = [await _unread(open_message(first, WebhookReceived), retry, deps)]
    event = next((one for one in events if one.number == edit.number), None)
    if event is None:
        detail = f"there is no event {edit.number}: the delivery has {len(events)}, from 0 on"
        raise Invalid(detail, errors=(Problem("edit.number", "is none of the delivery's"),))
    made = checked_event(ParsedEvent(edit.type or event.type, edit.data, event.headers))
    data, reference = await by_reference(made.data, deps)
    return msgspec.structs.replace(event, type=made.type, data=data, data_ref=reference, edited_by=actor), len(events) - 1


async def _unread(webhook: WebhookReceived, retry: str, deps: DeliveryDeps) -> EventAccepted:
    """Return the event that stands for a webhook whose body makes none, still without a type."""
    source = await deps.source(webhook.source)
    return EventAccepted(
        source=webhook.source,
        source_name=webhook.source if source is None else source.name,
        event=domain.event_id(webhook.delivery, 0, retry),
        delivery=webhook.delivery,
        type="",
        headers={},
        received_at=webhook.received_at,
        retried_by=retry,
    )


QUESTIONS: Questions = {RetryDelivery: retry_delivery}
