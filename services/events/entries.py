"""Sources and subscriptions in the shapes that others see, made of their messages and rows."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import RowMapping

from shared.envelope import rfc3339
from shared.messages import SourceChanged, SubscriptionChanged
from shared.questions.events import DeliveryRun, DeliveryView, SourceEntry, SourceView, SubscriptionEntry


def source_entry(message: SourceChanged, org: str, at: datetime) -> SourceEntry:
    """Return the registry entry that a message makes."""
    return SourceEntry(
        id=message.id,
        org=org,
        key=message.key,
        name=message.name,
        adapter=message.adapter,
        settings=message.settings,
        sealed=message.sealed,
        enabled=message.enabled,
        created_at=message.created_at,
        updated_at=rfc3339(at),
    )


def source_entry_of(row: RowMapping) -> SourceEntry:
    """Return the registry entry that a row stands for."""
    return SourceEntry(
        **{name: row[name] for name in ("id", "org", "key", "name", "adapter", "settings", "sealed", "enabled")},
        created_at=rfc3339(row["created_at"]),
        updated_at=rfc3339(row["updated_at"]),
    )


def source_view(entry: SourceEntry, version: int) -> SourceView:
    """Return a source as its owner shows it: secrets by name only."""
    return SourceView(
        id=entry.id,
        org=entry.org,
        name=entry.name,
        adapter=entry.adapter,
        settings=entry.settings,
        secrets=sorted(entry.sealed),
        enabled=entry.enabled,
        created_at=entry.created_at,
        updated_at=entry.updated_at,
        version=version,
    )


def subscription_entry(message: SubscriptionChanged, org: str, at: datetime, version: int) -> SubscriptionEntry:
    """Return the subscription that a message makes."""
    return SubscriptionEntry(
        id=message.id,
        org=org,
        name=message.name,
        source=message.source,
        source_name=message.source_name,
        event=message.event,
        workflow=message.workflow,
        filter=message.filter,
        input=message.input,
        enabled=message.enabled,
        created_at=message.created_at,
        updated_at=rfc3339(at),
        version=version,
    )


def subscription_entry_of(row: RowMapping) -> SubscriptionEntry:
    """Return the subscription that a row stands for."""
    times = {name: rfc3339(row[name]) for name in ("created_at", "updated_at")}
    return SubscriptionEntry(**{name: row[name] for name in SubscriptionEntry.__struct_fields__} | times)


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
        received_at=rfc3339(row["received_at"]),
        correlation_id=row["correlation_id"],
    )
