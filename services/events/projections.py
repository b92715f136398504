"""Messages into rows, and into the registries that the rows' owner keeps."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from nats.aio.client import Client

from services.events import store
from services.events.entries import source_entry, subscription_entry
from services.events.routing import Routing, routing
from shared.db import Connection
from shared.envelope import Envelope, open_envelope, open_message
from shared.errors import Invalid
from shared.messages import (
    DeadLettered,
    EventAccepted,
    EventFiltered,
    EventRouted,
    EventUnroutable,
    IntegrationChanged,
    IntegrationRemoved,
    MappingChanged,
    MappingRemoved,
    RunRequested,
    SourceChanged,
    SourceRemoved,
    SubscriptionChanged,
    SubscriptionRemoved,
    WebhookReceived,
)
from shared.projected import Apply, Projected, Projections, Recorded, in_batches, one_by_one
from shared.questions.events import SourceEntry, SubscriptionEntry
from shared.registry import RegistryWriter
from shared.runs import status_after, status_of
from shared.statements import Statement

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
            tables=("source", "subscription", "integration", "mapping"),
            filters=("source.>", "subscription.>", "integration.>", "mapping.>"),
        ),
        *(
            Projected(name=name, stream=stream, apply=apply, tables=("delivery", "delivery_run", "chain"), linger=LINGER)
            for name, (stream, apply) in DELIVERIES.items()
        ),
    ]


def catalog(client: Client) -> Projections:
    """Return the projection of the catalog; it also repairs a registry whose writer died between the stream and the KV."""
    sources = RegistryWriter(client, "sources", SourceEntry)
    subscriptions = RegistryWriter(client, "subscriptions", SubscriptionEntry)

    async def source_changed(message: SourceChanged, at: Recorded) -> Statement:
        entry = source_entry(message, at.envelope.org, at.envelope.time)
        await sources.put(message.id, at.delivered.sequence, entry)
        return store.put_source(_row(message, at))

    async def source_removed(message: SourceRemoved, at: Recorded) -> Statement:
        await sources.put(message.id, at.delivered.sequence, None)
        return store.retire_source(message.id, at.envelope.time, at.delivered.sequence)

    async def subscription_changed(message: SubscriptionChanged, at: Recorded) -> Statement:
        entry = subscription_entry(message, at.envelope.org, at.envelope.time, at.delivered.sequence)
        await subscriptions.put(message.id, at.delivered.sequence, entry)
        return store.put_subscription(_row(message, at))

    async def subscription_removed(message: SubscriptionRemoved, at: Recorded) -> Statement:
        await subscriptions.put(message.id, at.delivered.sequence, None)
        return store.remove_subscription(message.id)

    async def integration_changed(message: IntegrationChanged, at: Recorded) -> Statement:
        return store.put_integration(_row(message, at))

    async def integration_removed(message: IntegrationRemoved, _at: Recorded) -> Statement:
        return store.remove_integration(message.id)

    async def mapping_changed(message: MappingChanged, at: Recorded) -> Statement:
        return store.put_mapping(_row(message, at))

    async def mapping_removed(message: MappingRemoved, _at: Recorded) -> Statement:
        return store.remove_mapping(message.id)

    return {
        SourceChanged: source_changed,
        SourceRemoved: source_removed,
        SubscriptionChanged: subscription_changed,
        SubscriptionRemoved: subscription_removed,
        IntegrationChanged: integration_changed,
        IntegrationRemoved: integration_removed,
        MappingChanged: mapping_changed,
        MappingRemoved: mapping_removed,
    }


def _row(message: SourceChanged | SubscriptionChanged | IntegrationChanged | MappingChanged, at: Recorded) -> dict[str, Any]:
    """Return the columns of the entity that a message makes; more than a table has does no harm."""
    return msgspec.structs.asdict(message) | {
        "org": at.envelope.org,
        "created_at": datetime.fromisoformat(message.created_at),
        "updated_at": at.envelope.time,
        "version": at.delivered.sequence,
    }


async def received(batch: Sequence[Recorded], _connection: Connection) -> list[Statement]:
    """Webhooks are on disk: their deliveries begin."""
    rows = {}
    for at in batch:
        if isinstance(at.message, WebhookReceived):
            rows[at.message.delivery] = _delivery(at.message, at.envelope) | {"sequence": at.delivered.sequence}
    return [store.note_deliveries(list(rows.values()))] if rows else []


async def routed(batch: Sequence[Recorded], connection: Connection) -> list[Statement]:
    """Events were made of deliveries, and somebody wanted them or nobody did."""
    kinds = (EventAccepted, EventRouted, EventFiltered, EventUnroutable)
    messages = [(at, at.message) for at in batch if isinstance(at.message, kinds)]
    rows = await store.routings(connection, list({message.delivery for _, message in messages}))
    for at, message in messages:
        if isinstance(message, EventAccepted) and message.delivery not in rows:
            rows[message.delivery] = _delivery(message, at.envelope) | {"emitted": None}
        row = rows.get(message.delivery)
        if row is not None:
            row |= msgspec.structs.asdict(routing(msgspec.convert(row, Routing), message))
            if isinstance(message, EventAccepted) and message.emitted_by is not None and message.retried_by is None:
                row["emitted"] = at.delivered.sequence
    emitted = Counter(
        (at.envelope.org, message.chain)
        for at, message in messages
        if isinstance(message, EventAccepted) and message.chain is not None and message.retried_by is None
    )
    written = [store.put_routings(list(rows.values()))] if rows else []
    return [*written, store.count_in_chains("events", emitted)] if emitted else written


async def runs(batch: Sequence[Recorded], _connection: Connection) -> list[Statement]:
    """Runs were asked for by deliveries, began and ended."""
    asked: dict[str, dict[str, Any]] = {}
    chained: Counter[tuple[str, str]] = Counter()
    statuses: dict[str, str] = {}
    for at in batch:
        message = at.message
        if isinstance(message, RunRequested):
            if message.hops:
                chained[at.envelope.org, at.envelope.correlationid] += 1
            if message.delivery is not None:
                row = {"run": message.run, "delivery": message.delivery, "workflow": message.workflow}
                asked.setdefault(message.run, row | {"requested_at": at.envelope.time})
        elif message is not None:
            run = at.envelope.subject
            status = status_after(statuses.get(run), status_of(message))
            if status is not None:
                statuses[run] = status
    # Who was asked for and began in one batch needs no second statement.
    rows = [row | {"status": statuses.pop(run, "queued")} for run, row in asked.items()]
    statements = [store.note_runs(rows)] if rows else []
    if chained:
        statements.append(store.count_in_chains("runs", chained))
    return [*statements, store.note_run_statuses(statuses)] if statuses else statements


async def dead(batch: Sequence[Recorded], _connection: Connection) -> list[Statement]:
    """Messages were given up; those that were a delivery's are told by the delivery."""
    statements = []
    for at in batch:
        message = at.message
        # What a projection could not make a row of was handled all the same.
        if not isinstance(message, DeadLettered) or message.place is not None:
            continue
        try:
            envelope = open_envelope(base64.b64decode(message.document_base64))
            original: Any = open_message(envelope)
        except Invalid:
            continue
        if isinstance(original, WebhookReceived | EventAccepted):
            statements.append(store.note_dead(_delivery(original, envelope) | {"dead": message.error}))
    return statements


def _delivery(message: WebhookReceived | EventAccepted, envelope: Envelope) -> dict[str, Any]:
    return {
        "id": message.delivery,
        "org": envelope.org,
        "source": message.source,
        "received_at": datetime.fromisoformat(message.received_at),
        "correlation_id": envelope.correlationid,
    }


# By the name of the projection: a stream, and what its messages do to deliveries.
DELIVERIES: dict[str, tuple[str, Apply]] = {
    "webhooks": ("WEBHOOKS", in_batches(received)),
    "events": ("EVENTS", in_batches(routed)),
    "runs": ("RUNS", in_batches(runs)),
    "dead": ("DEAD", in_batches(dead)),
}
