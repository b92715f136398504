"""Messages into rows, and into the registries that the rows' owner keeps."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any

from nats.aio.client import Client
from sqlalchemy.ext.asyncio import AsyncConnection

from services.events import store
from services.events.entries import source_entry, subscription_entry
from shared.envelope import open_envelope, open_message
from shared.errors import Invalid
from shared.messages import (
    DeadLettered,
    EventAccepted,
    EventFiltered,
    EventRouted,
    EventUnroutable,
    Message,
    RunCancelled,
    RunCancelRequested,
    RunCrashed,
    RunFailed,
    RunRequested,
    RunStarted,
    RunSucceeded,
    RunTimedOut,
    SourceChanged,
    SourceRemoved,
    SubscriptionChanged,
    SubscriptionRemoved,
    WebhookReceived,
)
from shared.projection import PerMessage, Projected, Projections, Recorded, one_by_one
from shared.questions.events import SourceEntry, SubscriptionEntry
from shared.registry import RegistryWriter


def projected(client: Client) -> list[Projected]:
    """Return every projection of this service; those of deliveries fill the same rows."""
    followed = one_by_one(catalog(client))
    return [
        Projected(
            name="catalog",
            stream="CATALOG",
            apply=followed,
            tables=("source", "subscription"),
            filters=("source.>", "subscription.>"),
        ),
        *(
            Projected(name=name, stream=stream, apply=one_by_one(PROJECTIONS), tables=("delivery", "delivery_run"))
            for name, stream in (("webhooks", "WEBHOOKS"), ("events", "EVENTS"), ("runs", "RUNS"), ("dead", "DEAD"))
        ),
    ]


def catalog(client: Client) -> Projections:
    """Return the projection of the catalog; it also repairs a registry whose writer died between the stream and the KV."""
    sources = RegistryWriter(client, "sources", SourceEntry)
    subscriptions = RegistryWriter(client, "subscriptions", SubscriptionEntry)

    async def source_changed(message: SourceChanged, at: Recorded, connection: AsyncConnection) -> None:
        entry = source_entry(message, at.envelope.org, at.envelope.time)
        row = {name: getattr(entry, name) for name in ("id", "key", "org", "name", "adapter", "settings", "sealed", "enabled")}
        times = {"created_at": datetime.fromisoformat(message.created_at), "updated_at": at.envelope.time}
        await store.put_source(connection, row | times | {"version": at.delivered.sequence})
        await sources.put(message.id, at.delivered.sequence, entry)

    async def source_removed(message: SourceRemoved, at: Recorded, connection: AsyncConnection) -> None:
        await store.retire_source(connection, message.id, at.envelope.time, at.delivered.sequence)
        await sources.put(message.id, at.delivered.sequence, None)

    async def subscription_changed(message: SubscriptionChanged, at: Recorded, connection: AsyncConnection) -> None:
        entry = subscription_entry(message, at.envelope.org, at.envelope.time, at.delivered.sequence)
        row = {name: getattr(entry, name) for name in entry.__struct_fields__} | {
            "key": message.key,
            "created_at": datetime.fromisoformat(message.created_at),
            "updated_at": at.envelope.time,
        }
        await store.put_subscription(connection, row)
        await subscriptions.put(message.id, at.delivered.sequence, entry)

    async def subscription_removed(message: SubscriptionRemoved, at: Recorded, connection: AsyncConnection) -> None:
        await store.remove_subscription(connection, message.id)
        await subscriptions.put(message.id, at.delivered.sequence, None)

    return {
        SourceChanged: source_changed,
        SourceRemoved: source_removed,
        SubscriptionChanged: subscription_changed,
        SubscriptionRemoved: subscription_removed,
    }


async def received(message: WebhookReceived, at: Recorded, connection: AsyncConnection) -> None:
    """A webhook is on disk: the delivery begins."""
    await store.note_delivery(connection, _delivery(message, at) | {"sequence": at.delivered.sequence})


async def accepted(message: EventAccepted, at: Recorded, connection: AsyncConnection) -> None:
    """An event of a delivery was made."""
    await store.note_delivery(connection, _delivery(message, at) | {"sequence": None})
    await store.begin_routing(connection, message.delivery, message.type, message.retried_by)


async def routed(message: EventRouted, _at: Recorded, connection: AsyncConnection) -> None:
    """A run was asked for."""
    await store.note_outcome(connection, message.delivery, "routed", None)


async def filtered(message: EventFiltered, _at: Recorded, connection: AsyncConnection) -> None:
    """Nobody wanted the event."""
    await store.note_outcome(connection, message.delivery, "filtered", message.reason)


async def unroutable(message: EventUnroutable, _at: Recorded, connection: AsyncConnection) -> None:
    """Somebody wanted the event and could not get it."""
    await store.note_outcome(connection, message.delivery, "unroutable", message.reason)


async def dead(message: DeadLettered, _at: Recorded, connection: AsyncConnection) -> None:
    """A message was given up; if it was one of a delivery, the delivery says so."""
    try:
        envelope = open_envelope(base64.b64decode(message.document_base64))
        original: Any = open_message(envelope)
    except Invalid:
        return
    if not isinstance(original, WebhookReceived | EventAccepted):
        return
    row = {
        "id": original.delivery,
        "org": envelope.org,
        "source": original.source,
        "received_at": datetime.fromisoformat(original.received_at),
        "correlation_id": envelope.correlationid,
        "sequence": None,
    }
    await store.note_delivery(connection, row)
    await store.note_dead(connection, original.delivery, message.error)


async def requested(message: RunRequested, at: Recorded, connection: AsyncConnection) -> None:
    """A run was requested; only those of deliveries are noted."""
    if message.delivery is not None:
        row = {"run": message.run, "delivery": message.delivery, "workflow": message.workflow}
        await store.note_run(connection, row | {"requested_at": at.envelope.time})


def status(word: str) -> PerMessage:
    """Return the projection of a message that gives a run the status `word`."""

    async def note(message: Any, _at: Recorded, connection: AsyncConnection) -> None:
        await store.note_run_status(connection, message.run, word)

    return note


def _delivery(message: WebhookReceived | EventAccepted, at: Recorded) -> dict[str, Any]:
    return {
        "id": message.delivery,
        "org": at.envelope.org,
        "source": message.source,
        "received_at": datetime.fromisoformat(message.received_at),
        "correlation_id": at.envelope.correlationid,
    }


RUN_STATUS: dict[type[Message], str] = {
    RunStarted: "running",
    RunCancelRequested: "cancelling",
    RunSucceeded: "succeeded",
    RunFailed: "failed",
    RunTimedOut: "timed_out",
    RunCrashed: "crashed",
    RunCancelled: "cancelled",
}
PROJECTIONS: Projections = {
    WebhookReceived: received,
    EventAccepted: accepted,
    EventRouted: routed,
    EventFiltered: filtered,
    EventUnroutable: unroutable,
    DeadLettered: dead,
    RunRequested: requested,
    **{message: status(word) for message, word in RUN_STATUS.items()},
}
