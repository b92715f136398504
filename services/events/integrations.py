"""Questions and commands in: integrations, and what each is for an organization."""

from __future__ import annotations

from typing import Protocol

from sqlalchemy import RowMapping

from services.events import domain, entries, schemas
from services.events.recording import done_by, expect, limit_of, opened, record
from services.events.store import EventsStore
from shared import aggregate
from shared.asking import Questions
from shared.bus import Bus
from shared.envelope import derived_id, rfc3339, utc_now
from shared.errors import Invalid, NotFound, Problem
from shared.messages import IntegrationChanged, IntegrationRemoved, MappingChanged, MappingRemoved
from shared.messages.declaration import hashed_key
from shared.projection import Projection
from shared.questions import Done, fitting
from shared.questions.events import GetMapping, MappingView
from shared.questions.integrations import (
    IntegrationList,
    IntegrationView,
    ListIntegrations,
    ListMappings,
    MappingList,
    PutIntegration,
    PutMapping,
    RemoveIntegration,
    RemoveMapping,
)

EVERY_ORG = "*"


class Deps(Protocol):
    """What these questions and commands need."""

    bus: Bus
    store: EventsStore
    catalog: Projection


async def list_integrations(question: ListIntegrations, deps: Deps) -> IntegrationList:
    """Return a page of integrations, by name."""
    limit = limit_of(question.page)
    after = question.page.cursor or ""
    rows = await deps.store.integrations(question.org, question.name, after, limit + 1, own=question.own)
    items = fitting([entries.integration_view_of(row) for row in rows[:limit]])
    return IntegrationList(items, items[-1].name if len(rows) > len(items) else None)


async def put_integration(command: PutIntegration, deps: Deps) -> IntegrationView:
    """Create or replace an integration."""
    domain.checked_name(command.name)
    if command.provider is not None:
        _check_reference("provider", command.provider)
    schemas.checked_config_schema(command.config_schema)
    key = hashed_key(command.org, command.name)
    before = await aggregate.last(deps.bus.client, "integration", key)
    known = opened(before, IntegrationChanged)
    if before is not None and known is not None and done_by(command, before, IntegrationChanged):
        return entries.integration_view(known, command.org, before.envelope.time, before.sequence)
    expect(command.expected, before.sequence if before and known else 0, f"integration {command.name}")
    message = IntegrationChanged(
        key=key,
        id=known.id if known else derived_id(command.id, "integration"),
        name=command.name,
        description=command.description,
        config_schema=command.config_schema,
        provider=command.provider,
        actor=command.actor,
        created_at=known.created_at if known else rfc3339(utc_now()),
    )
    sequence, at = await record(command, message, before, deps)
    await deps.catalog.caught_up(sequence)
    return entries.integration_view(message, command.org, at, sequence)


async def remove_integration(command: RemoveIntegration, deps: Deps) -> Done:
    """Remove an integration; its mappings stay."""
    key = hashed_key(command.org, command.name)
    before = await aggregate.last(deps.bus.client, "integration", key)
    known = opened(before, IntegrationChanged)
    if done_by(command, before, IntegrationRemoved):
        return Done()
    expect(command.expected, before.sequence if before and known else 0, f"integration {command.name}")
    if known is None:
        raise NotFound(f"there is no integration {command.name!r} of {command.org}")
    message = IntegrationRemoved(key=key, id=known.id, name=known.name, actor=command.actor)
    sequence, _ = await record(command, message, before, deps)
    await deps.catalog.caught_up(sequence)
    return Done()


async def list_mappings(question: ListMappings, deps: Deps) -> MappingList:
    """Return a page of an integration's mappings, by organization."""
    limit = limit_of(question.page)
    every = question.org == EVERY_ORG
    await _seen("global" if every else question.org, question.integration, deps)
    org = None if every else question.org
    rows = await deps.store.mappings(org, question.integration, question.page.cursor or "", limit + 1)
    items = fitting([entries.mapping_view_of(row) for row in rows[:limit]])
    return MappingList(items, items[-1].org if len(rows) > len(items) else None)


async def get_mapping(question: GetMapping, deps: Deps) -> MappingView:
    """Return the organization's mapping of an integration."""
    return entries.mapping_view_of(mapping_found(await deps.store.mapping(question.org, question.integration), question))


async def put_mapping(command: PutMapping, deps: Deps) -> MappingView:
    """Map an organization to an integration that it sees."""
    seen = await _seen(command.org, command.integration, deps)
    if command.connection is not None:
        _check_reference("connection", command.connection)
    schemas.checked_config(seen["config_schema"], command.config)
    key = hashed_key(command.org, command.integration)
    before = await aggregate.last(deps.bus.client, "mapping", key)
    known = opened(before, MappingChanged)
    if not done_by(command, before, MappingChanged):
        what = f"the mapping of {command.integration} for {command.org}"
        expect(command.expected, before.sequence if before and known else 0, what)
        message = MappingChanged(
            key=key,
            id=known.id if known else derived_id(command.id, "mapping"),
            integration=command.integration,
            config=command.config,
            entity_id=command.entity_id,
            connection=command.connection,
            actor=command.actor,
            created_at=known.created_at if known else rfc3339(utc_now()),
        )
        sequence, _ = await record(command, message, before, deps)
        await deps.catalog.caught_up(sequence)
    return await get_mapping(GetMapping(org=command.org, integration=command.integration), deps)


async def remove_mapping(command: RemoveMapping, deps: Deps) -> Done:
    """Remove a mapping, also one whose integration is gone."""
    key = hashed_key(command.org, command.integration)
    before = await aggregate.last(deps.bus.client, "mapping", key)
    known = opened(before, MappingChanged)
    if done_by(command, before, MappingRemoved):
        return Done()
    what = f"mapping of {command.integration!r} for {command.org}"
    expect(command.expected, before.sequence if before and known else 0, f"the {what}")
    if known is None:
        raise NotFound(f"there is no {what}")
    message = MappingRemoved(key=key, id=known.id, integration=known.integration, actor=command.actor)
    sequence, _ = await record(command, message, before, deps)
    await deps.catalog.caught_up(sequence)
    return Done()


def mapping_found(row: RowMapping | None, asked: GetMapping) -> RowMapping:
    """Return the row if it holds a mapping. Raises `NotFound` saying which is missing, the integration or the mapping."""
    if row is None:
        raise NotFound(f"there is no integration {asked.integration!r}")
    if row["id"] is None:
        raise NotFound(f"there is no mapping of integration {asked.integration!r} for organization {asked.org!r}")
    return row


async def _seen(org: str, name: str, deps: Deps) -> RowMapping:
    found = await deps.store.seen_integration(org, name)
    if found is None:
        raise NotFound(f"there is no integration {name!r}")
    return found


def _check_reference(field: str, name: str) -> None:
    if not domain.NAME.match(name):
        raise Invalid(f"{field} {name[:120]!r} cannot be anything's name", errors=(Problem(field, "cannot be a name"),))


QUESTIONS: Questions = {
    ListIntegrations: list_integrations,
    PutIntegration: put_integration,
    RemoveIntegration: remove_integration,
    ListMappings: list_mappings,
    GetMapping: get_mapping,
    PutMapping: put_mapping,
    RemoveMapping: remove_mapping,
}
