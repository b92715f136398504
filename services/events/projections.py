"""Messages into rows, and into the registries that the rows' owner keeps."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from nats.aio.client import Client

from services.events import domain, store
from services.events.entries import source_entry, subscription_entry
from shared.db import Connection
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
from shared.projection import Apply, Projected, Projections, Recorded, in_batches, one_by_one
from shared.questions.events import SourceEntry, SubscriptionEntry
from shared.registry import RegistryWriter

# Deliveries are looked at by people; what they wait for is written with what comes along.
LINGER = 0.02


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
            Projected(name=name, stream=stream, apply=apply, tables=("delivery", "delivery_run"), linger=LINGER)
            for name, (stream, apply) in DELIVERIES.items()
        ),
    ]


def catalog(client: Client) -> Projections:
    """Return the projection of the catalog; it also repairs a registry whose writer died between the stream and the KV."""
    sources = RegistryWriter(client, "sources", SourceEntry)
    subscriptions = RegistryWriter(client, "subscriptions", SubscriptionEntry)

    async def source_changed(message: SourceChanged, at: Recorded, connection: Connection) -> None:
        entry = source_entry(message, at.envelope.org, at.envelope.time)
        row = {name: getattr(entry, name) for name in ("id", "key", "org", "name", "adapter", "settings", "sealed", "enabled")}
        times = {"created_at": datetime.fromisoformat(message.created_at), "updated_at": at.envelope.time}
        await store.put_source(connection, row | times | {"version": at.delivered.sequence})
        await sources.put(message.id, at.delivered.sequence, entry)

    async def source_removed(message: SourceRemoved, at: Recorded, connection: Connection) -> None:
        await store.retire_source(connection, message.id, at.envelope.time, at.delivered.sequence)
        await sources.put(message.id, at.delivered.sequence, None)

    async def subscription_changed(message: SubscriptionChanged, at: Recorded, connection: Connection) -> None:
        entry = subscription_entry(message, at.envelope.org, at.envelope.time, at.delivered.sequence)
        row = {name: getattr(entry, name) for name in entry.__struct_fields__} | {
            "key": message.key,
            "created_at": datetime.fromisoformat(message.created_at),
            "updated_at": at.envelope.time,
        }
        await store.put_subscription(connection, row)
        await subscriptions.put(message.id, at.delivered.sequence, entry)

    async def subscription_removed(message: SubscriptionRemoved, at: Recorded, connection: Connection) -> None:
        await store.remove_subscription(connection, message.id)
        await subscriptions.put(message.id, at.delivered.sequence, None)

    return {
        SourceChanged: source_changed,
        SourceRemoved: source_removed,
        SubscriptionChanged: subscription_changed,
        SubscriptionRemoved: subscription_removed,
    }


async def received(batch: Sequence[Recorded], connection: Connection) -> None:
    """Webhooks are on disk: their deliveries begin."""
    rows = {}
    for at in batch:
        if isinstance(at.message, WebhookReceived):
            rows[at.message.delivery] = _delivery(at.message, at) | {"sequence": at.delivered.sequence}
    if rows:
        await store.note_deliveries(connection, list(rows.values()))


async def routed(batch: Sequence[Recorded], connection: Connection) -> None:
    """Events were made of deliveries, and somebody wanted them or nobody did."""
    routing = (EventAccepted, EventRouted, EventFiltered, EventUnroutable)
    messages = [(at, at.message) for at in batch if isinstance(at.message, routing)]
    rows = await store.routings(connection, list({message.delivery for _, message in messages}))
    for at, message in messages:
        if isinstance(message, EventAccepted) and message.delivery not in rows:
            rows[message.delivery] = _delivery(message, at)
        row = rows.get(message.delivery)
        if row is not None:
            row |= msgspec.structs.asdict(domain.routing(msgspec.convert(row, domain.Routing), message))
    if rows:
        await store.put_routings(connection, list(rows.values()))


async def runs(batch: Sequence[Recorded], connection: Connection) -> None:
    """Runs were asked for by deliveries, began and ended."""
    asked: dict[str, dict[str, Any]] = {}
    statuses: dict[str, str] = {}
    for at in batch:
        message = at.message
        if isinstance(message, RunRequested):
            if message.delivery is not None:
                row = {"run": message.run, "delivery": message.delivery, "workflow": message.workflow}
                asked.setdefault(message.run, row | {"requested_at": at.envelope.time})
        elif message is not None and type(message) in RUN_STATUS:
            statuses[at.envelope.subject] = RUN_STATUS[type(message)]
    if asked:
        await store.note_runs(connection, list(asked.values()))
    if statuses:
        await store.note_run_statuses(connection, statuses)


async def dead(message: DeadLettered, _at: Recorded, connection: Connection) -> None:
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
    await store.note_deliveries(connection, [row])
    await store.note_dead(connection, original.delivery, message.error)


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
# By the name of the projection: a stream, and what its messages do to deliveries.
DELIVERIES: dict[str, tuple[str, Apply]] = {
    "webhooks": ("WEBHOOKS", in_batches(received)),
    "events": ("EVENTS", in_batches(routed)),
    "runs": ("RUNS", in_batches(runs)),
    "dead": ("DEAD", one_by_one({DeadLettered: dead})),
}
