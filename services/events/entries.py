"""Sources, subscriptions and integrations in the shapes that others see, made of their messages and rows."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import RowMapping

from services.events.adapters import PARSERS, verification_of
from services.events.schemas import misfits
from shared.envelope import rfc3339
from shared.messages import IntegrationChanged, SourceChanged, SubscriptionChanged
from shared.questions.events import (
    DeliveryRun,
    DeliveryView,
    MappingView,
    SourceEntry,
    SourceView,
    SubscriptionEntry,
    SubscriptionTaken,
)
from shared.questions.integrations import IntegrationView


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
        integration=message.integration,
        verification=verification_of(message.adapter, message.settings),
        created_at=message.created_at,
        updated_at=rfc3339(at),
    )


def source_entry_of(row: RowMapping) -> SourceEntry:
    """Return the registry entry that a row stands for."""
    return SourceEntry(**_fields(SourceEntry, row), verification=verification_of(row["adapter"], row["settings"]))


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
        integration=entry.integration,
        created_at=entry.created_at,
        updated_at=entry.updated_at,
        version=version,
        path=f"/hooks/{entry.id}" if entry.adapter in PARSERS else None,
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
    return SubscriptionEntry(**_fields(SubscriptionEntry, row))


def integration_view(message: IntegrationChanged, org: str, at: datetime, version: int) -> IntegrationView:
    """Return the integration that a message makes."""
    return IntegrationView(
        id=message.id,
        org=org,
        name=message.name,
        description=message.description,
        config_schema=message.config_schema,
        provider=message.provider,
        created_at=message.created_at,
        updated_at=rfc3339(at),
        version=version,
    )


def integration_view_of(row: RowMapping) -> IntegrationView:
    """Return the integration that a row stands for."""
    return IntegrationView(**_fields(IntegrationView, row))


def mapping_view_of(row: RowMapping) -> MappingView:
    """Return the mapping that a row stands for, which holds its integration's `config_schema` and `provider` besides."""
    fields = {name: row[name] for name in ("id", "org", "integration", "config", "entity_id", "connection", "provider", "version")}
    return MappingView(**fields | _times(row), problems=misfits(row["config_schema"], row["config"], at="config"))


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


def _fields(view: type[msgspec.Struct], row: RowMapping) -> dict[str, Any]:
    return {name: row[name] for name in view.__struct_fields__ if name != "verification"} | _times(row)


def _times(row: RowMapping) -> dict[str, Any]:
    return {name: rfc3339(row[name]) for name in ("created_at", "updated_at")}
