"""Questions and commands in: deliveries and their stories, and deliveries that begin with an emitted event."""

from __future__ import annotations

import asyncio
import base64
from datetime import datetime
from typing import Any, Protocol

import msgspec
from sqlalchemy import RowMapping

from services.events import domain, outcomes
from services.events.letter_rows import LetterRows
from services.events.routing import RoutingDeps
from services.events.store import EventsStore
from shared import aggregate
from shared.asking import Questions
from shared.bus import Bus
from shared.envelope import Envelope, derived_id, open_message, rfc3339, utc_now
from shared.errors import Invalid, NotFound, TooMany
from shared.messages import EventAccepted, WebhookReceived
from shared.messages.declaration import declaration_of
from shared.owners.rows import ResourceRows
from shared.projection import Projection
from shared.questions import MOST_ITEMS, Position, fitting
from shared.questions.events import (
    DeliveriesPosition,
    DeliveryEvent,
    DeliveryList,
    DeliveryRequest,
    DeliveryRun,
    DeliveryView,
    EmitEvent,
    Emitted,
    GetDelivery,
    ListDeliveries,
    SubscriptionTaken,
    WokenRun,
)
from shared.streams import BULK_LANES
from shared.values import storable

# Emitted events of one organization that may wait to be routed, among the webhooks of all others: a second's work.
MOST_UNROUTED = 500
# So many of them are in the prompt lane, where others' wait behind them, and further ones in a bulk lane.
MOST_PROMPT, LANE = 32, BULK_LANES[1]
# Seconds after which a run that would emit more is to ask again.
LATER = 0.5
# Bytes of a body that a story shows; and as JSON of its outcomes, events and runs, of which one webhook may have thousands.
LARGEST_SHOWN = 64 * 1024
ROOM_FOR_OUTCOMES, ROOM_FOR_EVENTS, ROOM_FOR_RUNS, ROOM_FOR_WOKEN = 448 * 1024, 128 * 1024, 320 * 1024, 128 * 1024
# Outcomes that need a person are shown first.
SHOWN_FIRST = ("unroutable", "held", "failed", "routed", "filtered")


class DeliveryDeps(RoutingDeps, Protocol):
    """Further dependencies of these questions and commands."""

    bus: Bus
    store: EventsStore
    resources: ResourceRows
    letters: LetterRows
    followed: list[Projection]


async def list_deliveries(question: ListDeliveries, deps: DeliveryDeps) -> DeliveryList:
    """Return a page of deliveries, newest first."""
    limit = question.page.within(MOST_ITEMS)
    rows, found = await deps.store.deliveries(
        question.org,
        question.status,
        question.source,
        question.id,
        question.page.before(),
        limit + 1,
        overdue=question.overdue,
    )
    items = fitting([delivery_view(row) for row in rows[:limit]])
    more = f"{items[-1].received_at}|{items[-1].id}" if found > len(items) else None
    return DeliveryList(items, more)


async def get_delivery(question: GetDelivery, deps: DeliveryDeps) -> DeliveryView:
    """Return one delivery, with its webhook or its event as long as the bus has it."""
    row = await deps.store.delivery(question.org, question.id)
    if row is None:
        raise NotFound(f"there is no delivery {question.id}")
    view, first = delivery_view(row), await begun(row, deps)
    if first is None:
        return view
    if first.type == declaration_of(WebhookReceived).type:
        return msgspec.structs.replace(view, request=_request(open_message(first, WebhookReceived)))
    event = open_message(first, EventAccepted)
    return msgspec.structs.replace(view, emitted_by=event.emitted_by, data=event.data)


async def deliveries_position(question: DeliveriesPosition, deps: DeliveryDeps) -> Position:
    """Return how far the rows of deliveries have come in a stream; what reads a part of it has these to fall back on."""
    rows = next((one for one in deps.followed if one.stream == question.stream), None)
    if rows is None:
        raise NotFound(f"no rows of deliveries follow the stream {question.stream}")
    return await deps.store.position(question.stream, rows.name)


async def begun(row: RowMapping, deps: DeliveryDeps) -> Envelope | None:
    """Return the message that began the delivery of a row; None where it is no longer on the bus. Raises `Unavailable`."""
    stream, sequence = ("EVENTS", row["emitted"]) if row["sequence"] is None else ("WEBHOOKS", row["sequence"])
    stored = None if sequence is None else await aggregate.stored_at(deps.bus.client, stream, sequence)
    return None if stored is None else stored.envelope


def _request(webhook: WebhookReceived) -> DeliveryRequest:
    body: dict[str, str | None] = {"body": None, "body_base64": None}
    if webhook.body_size <= LARGEST_SHOWN and webhook.body_ref is None:
        raw = base64.b64decode(webhook.body_base64 or "")
        try:
            body["body"] = storable(raw.decode())
        except UnicodeDecodeError:
            body["body_base64"] = webhook.body_base64
    names = ("method", "query", "headers", "remote", "adapter", "sender_delivery", "body_size", "checked")
    kept: dict[str, Any] = {name: getattr(webhook, name) for name in names}
    return DeliveryRequest(**kept | body)


async def emit_event(command: EmitEvent, deps: DeliveryDeps) -> Emitted:
    """Let a topic have an event. All ids derive from the command's: the broker, and later the delivery's row, know it again."""
    delivery = derived_id(command.id, "delivery", command.org)
    topic, known = await asyncio.gather(
        deps.resources.named("source", command.org, command.source),
        deps.store.emitted(command.org, delivery, MOST_UNROUTED),
    )
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
    if known["unrouted"] >= MOST_PROMPT:
        event = msgspec.structs.replace(event, lane=LANE)
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
    """Return the story of a delivery, as far as there is room for it in an answer."""
    taken = [(key, one) for key, one in sorted(row["subscriptions"].items()) if one["subscription"] is not None]
    taken.sort(key=lambda of: SHOWN_FIRST.index(of[1]["status"]))
    made = sorted(row["events"].items(), key=lambda of: int(of[0]))
    subscriptions = fitting((_subscription(*of) for of in taken), ROOM_FOR_OUTCOMES)
    events = fitting(
        (DeliveryEvent(number=int(number), id=one["event"], type=one["type"]) for number, one in made), ROOM_FOR_EVENTS
    )
    runs = fitting(map(_run, row["runs"]), ROOM_FOR_RUNS)
    woken = fitting((WokenRun(**one | {"at": rfc3339(datetime.fromisoformat(one["at"]))}) for one in row["woken"]), ROOM_FOR_WOKEN)
    return DeliveryView(
        id=row["id"],
        source=row["source"],
        source_name=row["source_name"],
        org=row["org"],
        type=row["type"],
        status=row["status"],
        reason=row["reason"],
        runs=runs,
        subscriptions=subscriptions,
        events=events,
        woken=woken,
        left_out=len(taken)
        + len(made)
        + len(row["runs"])
        + len(row["woken"])
        - len(subscriptions)
        - len(events)
        - len(runs)
        - len(woken),
        retries=row["retries"],
        edited_by=row["edited_by"],
        overdue_at=None if row["overdue_at"] is None else rfc3339(row["overdue_at"]),
        received_at=rfc3339(row["received_at"]),
        correlation_id=row["correlation_id"],
    )


def _subscription(key: str, taken: dict[str, Any]) -> SubscriptionTaken:
    fields = {name: taken[name] for name in ("subscription", "name", "workflow", "status", "reason", "run")}
    return SubscriptionTaken(**fields, event=outcomes.number_of(key), retry_at=taken.get("retry_at"))


def _run(run: dict[str, Any]) -> DeliveryRun:
    times = {name: run[name] and rfc3339(datetime.fromisoformat(run[name])) for name in ("requested_at", "ended_at")}
    return DeliveryRun(**run | times)


QUESTIONS: Questions = {
    ListDeliveries: list_deliveries,
    GetDelivery: get_delivery,
    EmitEvent: emit_event,
    DeliveriesPosition: deliveries_position,
}
