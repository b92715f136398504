"""Questions and commands in: sources and subscriptions, and with them all others of this service."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from services.events import deliveries, domain, entries, integrations
from services.events.adapters import DESCRIPTIONS
from services.events.handlers import HandlerDeps
from services.events.recording import done_by, expect, limit_of, opened, record
from services.events.store import EventsStore
from shared import aggregate
from shared.asking import Questions
from shared.bus import Bus
from shared.encryption import CannotOpen, Keyring
from shared.envelope import derived_id, rfc3339, utc_now
from shared.errors import Invalid, NotFound, Problem
from shared.expressions.pool import Trouble
from shared.expressions.syntax import syntax_of
from shared.messages import (
    SourceChanged,
    SourceRemoved,
    SubscriptionChanged,
    SubscriptionRemoved,
)
from shared.messages.declaration import hashed_key
from shared.projection import Projection
from shared.questions import Done, fitting
from shared.questions.events import (
    AdapterView,
    FindSource,
    ListAdapters,
    ListSources,
    ListSubscriptions,
    PutSource,
    PutSubscription,
    RemoveSource,
    RemoveSubscription,
    SourceEntry,
    SourceFound,
    SourceList,
    SourceView,
    SubscriptionEntry,
    SubscriptionList,
)
from shared.registry import RegistryView, RegistryWriter
from shared.schemas import checker_of

# Of one source: each is looked at for each of its events. Of one organization: all are held in memory at each gateway.
MOST_SUBSCRIPTIONS = 100
MOST_SOURCES = 1000


class Deps(HandlerDeps, Protocol):
    """What questions and commands need besides."""

    bus: Bus
    store: EventsStore
    keyring: Keyring
    sources: RegistryWriter[SourceEntry]
    subscriptions_writer: RegistryWriter[SubscriptionEntry]
    subscriptions_view: RegistryView[SubscriptionEntry]
    catalog: Projection


async def find_source(question: FindSource, deps: Deps) -> SourceFound:
    """Return the registry entry of a source."""
    row = await deps.store.source_by_id(question.id)
    if row is None:
        raise NotFound(f"there is no source {question.id}")
    return SourceFound(row["version"], None if row["removed"] else entries.source_entry_of(row))


async def list_sources(question: ListSources, deps: Deps) -> SourceList:
    """Return a page of sources, by name."""
    limit = limit_of(question.page)
    rows = await deps.store.sources(question.org, question.name, question.page.cursor or "", limit + 1)
    items = fitting([entries.source_view(entries.source_entry_of(row), row["version"]) for row in rows[:limit]])
    return SourceList(items, items[-1].name if len(rows) > len(items) else None)


async def put_source(command: PutSource, deps: Deps) -> SourceView:
    """Create or replace a source; its secrets are sealed anew for their place."""
    description = DESCRIPTIONS.get(command.adapter)
    if description is None:
        names = ", ".join(sorted(DESCRIPTIONS))
        raise Invalid(f"there is no adapter {command.adapter!r}; there are {names}", errors=(Problem("adapter", "unknown"),))
    domain.checked_name(command.name)
    key = hashed_key(command.org, command.name)
    before = await aggregate.last(deps.bus.client, "source", key)
    known = opened(before, SourceChanged)
    if before is not None and known is not None and done_by(command, before, SourceChanged):
        return entries.source_view(entries.source_entry(known, command.org, before.envelope.time), before.sequence)
    expect(command.expected, before.sequence if before and known else 0, f"source {command.name}")
    if command.integration is not None and await deps.store.seen_integration(command.org, command.integration) is None:
        detail = f"there is no integration {command.integration!r}"
        raise Invalid(detail, errors=(Problem("integration", "unknown"),))
    if known is None:
        _check_room("name", await deps.store.sources_of(command.org), MOST_SOURCES, "sources")
    id_ = known.id if known else derived_id(command.id, "source")
    secrets = _opened_secrets(command, deps)
    before_it = known.sealed if known and known.adapter == command.adapter else {}
    kept = {name: sealed for name, sealed in before_it.items() if name not in command.dropped}
    _check_settings(description, command.settings, secrets, kept)
    message = SourceChanged(
        key=key,
        id=id_,
        name=command.name,
        adapter=command.adapter,
        settings=command.settings,
        sealed=kept | {name: deps.keyring.seal(value, command.org, id_, name) for name, value in secrets.items()},
        enabled=command.enabled,
        integration=command.integration,
        actor=command.actor,
        created_at=known.created_at if known else rfc3339(utc_now()),
    )
    sequence, at = await record(command, message, before, deps)
    entry = entries.source_entry(message, command.org, at)
    await deps.sources.put(id_, sequence, entry)
    await deps.catalog.caught_up(sequence)
    return entries.source_view(entry, sequence)


async def remove_source(command: RemoveSource, deps: Deps) -> Done:
    """Retire a source."""
    row = await deps.store.source_named(command.org, command.name)
    key = row["key"] if row else hashed_key(command.org, command.name)
    before = await aggregate.last(deps.bus.client, "source", key)
    known = opened(before, SourceChanged)
    if done_by(command, before, SourceRemoved):
        return Done()
    expect(command.expected, before.sequence if before and known else 0, f"source {command.name}")
    if known is None:
        raise NotFound(f"there is no source {command.name}")
    message = SourceRemoved(key=key, id=known.id, name=known.name, actor=command.actor)
    sequence, _ = await record(command, message, before, deps)
    await deps.sources.put(known.id, sequence, None)
    await deps.catalog.caught_up(sequence)
    return Done()


async def list_subscriptions(question: ListSubscriptions, deps: Deps) -> SubscriptionList:
    """Return a page of subscriptions, by name."""
    limit = limit_of(question.page)
    rows = await deps.store.subscriptions(question.org, question.name, question.page.cursor or "", limit + 1)
    items = fitting([entries.subscription_entry_of(row) for row in rows[:limit]])
    return SubscriptionList(items, items[-1].name if len(rows) > len(items) else None)


async def put_subscription(command: PutSubscription, deps: Deps) -> SubscriptionEntry:
    """Create or replace a subscription. Its workflow need not exist yet: events are unroutable, visibly, until it does."""
    domain.checked_name(command.name)
    domain.checked_pattern(command.event)
    domain.checked_mapping(command.input)
    await _check_filter(command, deps)
    source = await deps.store.source_named(command.org, command.source)
    if source is None:
        raise Invalid(f"there is no source {command.source!r}", errors=(Problem("source", "unknown"),))
    key = hashed_key(command.org, command.name)
    before = await aggregate.last(deps.bus.client, "subscription", key)
    known = opened(before, SubscriptionChanged)
    if before is not None and known is not None and done_by(command, before, SubscriptionChanged):
        return entries.subscription_entry(known, command.org, before.envelope.time, before.sequence)
    expect(command.expected, before.sequence if before and known else 0, f"subscription {command.name}")
    if known is None or known.source != source["id"]:
        _check_room("source", await deps.store.subscriptions_of(source["id"]), MOST_SUBSCRIPTIONS, "subscriptions")
    message = SubscriptionChanged(
        key=key,
        id=known.id if known else derived_id(command.id, "subscription"),
        name=command.name,
        source=source["id"],
        source_name=source["name"],
        event=command.event,
        workflow=command.workflow,
        filter=command.filter,
        input=command.input,
        enabled=command.enabled,
        actor=command.actor,
        created_at=known.created_at if known else rfc3339(utc_now()),
    )
    sequence, at = await record(command, message, before, deps)
    entry = entries.subscription_entry(message, command.org, at, sequence)
    await deps.subscriptions_writer.put(entry.id, sequence, entry)
    await deps.catalog.caught_up(sequence)
    return entry


def _check_room(path: str, there: int, most: int, what: str) -> None:
    """Raise `Invalid` where there are as many of something as there may be: one event is routed to all, in one go."""
    if there >= most:
        detail = f"has {most:,} {what} already, which is the most"
        raise Invalid(f"{path} {detail}", errors=(Problem(path, detail),))


async def remove_subscription(command: RemoveSubscription, deps: Deps) -> Done:
    """Remove a subscription."""
    key = hashed_key(command.org, command.name)
    before = await aggregate.last(deps.bus.client, "subscription", key)
    known = opened(before, SubscriptionChanged)
    if done_by(command, before, SubscriptionRemoved):
        return Done()
    expect(command.expected, before.sequence if before and known else 0, f"subscription {command.name}")
    if known is None:
        raise NotFound(f"there is no subscription {command.name}")
    message = SubscriptionRemoved(key=key, id=known.id, name=known.name, actor=command.actor)
    sequence, _ = await record(command, message, before, deps)
    await deps.subscriptions_writer.put(known.id, sequence, None)
    await deps.catalog.caught_up(sequence)
    return Done()


async def list_adapters(_question: ListAdapters, _deps: Deps) -> list[AdapterView]:
    """Return the built-in adapters."""
    return [DESCRIPTIONS[name] for name in sorted(DESCRIPTIONS)]


async def _check_filter(command: PutSubscription, deps: Deps) -> None:
    if command.filter is None:
        return
    try:
        await deps.expressions.check(command.org, command.filter)
    except Trouble as trouble:
        raise Invalid(f"the filter is not a CEL expression: {trouble}", errors=(Problem("filter", str(trouble)),)) from trouble
    unknown = next((name for name in syntax_of(command.filter).variables if name not in {"event", "integration"}), None)
    if unknown is not None:
        message = f"there is no {unknown}: a filter sees event and integration"
        raise Invalid(message, errors=(Problem("filter", message),))


def _opened_secrets(command: PutSource, deps: Deps) -> dict[str, str]:
    try:
        return {name: deps.keyring.open(value, command.org, command.id, name) for name, value in command.sealed.items()}
    except CannotOpen as error:
        raise Invalid(f"a secret setting cannot be opened: {error}") from error


def _check_settings(description: AdapterView, settings: dict[str, Any], secrets: dict[str, str], kept: dict[str, str]) -> None:
    """Raise `Invalid` unless settings and secrets together fit the adapter's schema. Secrets never show in the complaint."""
    stray = sorted(set(secrets) - set(description.secrets)) + sorted(set(settings) & set(description.secrets))
    if stray:
        raise Invalid(f"{stray[0]} is not a secret setting of {description.name}")
    # A secret that is kept from before stands in for itself: only its presence is checked.
    whole = settings | dict.fromkeys(kept, "kept") | secrets
    problems = []
    for problem in checker_of(msgspec.json.encode(description.settings_schema)).problems(whole, "settings"):
        hidden = any(problem.path.startswith(f"settings.{name}") for name in description.secrets)
        problems.append(msgspec.structs.replace(problem, message="does not fit") if hidden else problem)
    if problems:
        detail = f"the settings do not fit adapter {description.name}: {problems[0].message}"
        raise Invalid(detail, errors=tuple(problems))


QUESTIONS: Questions = {
    **integrations.QUESTIONS,
    **deliveries.QUESTIONS,
    FindSource: find_source,
    ListSources: list_sources,
    PutSource: put_source,
    RemoveSource: remove_source,
    ListSubscriptions: list_subscriptions,
    PutSubscription: put_subscription,
    RemoveSubscription: remove_subscription,
    ListAdapters: list_adapters,
}
