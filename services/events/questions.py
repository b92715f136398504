"""Questions and commands in: all that this service answers; those of resources are answered as they are declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from services.events import dead_letters, deliveries, retries
from services.events.adapters import DESCRIPTIONS, custom
from services.events.previews import preview_webhook
from shared.asking import Questions
from shared.owners.answering import Keepers, questions_of
from shared.owners.keeper import Keeper
from shared.questions.events import AdapterView, GetMapping, ListAdapters, MappingView, PreviewWebhook
from shared.questions.resources import GetResource


class EventsDeps(dead_letters.LetterDeps, Keepers, Protocol):
    """Dependencies of questions and commands."""


async def get_mapping(asked: GetMapping, deps: Keepers) -> MappingView:
    """Return an integration's values for an organization. Raises `NotFound` for a missing integration or mapping."""
    return await mapping_of(deps.keepers, asked.org, asked.integration)


async def mapping_of(keepers: Mapping[str, Keeper[Any]], org: str, integration: str) -> MappingView:
    """Return an integration's values for an organization. Raises as `get_mapping`."""
    shown = await keepers["mapping"].get(GetResource(org=org, noun="mapping", name=integration))
    return msgspec.convert(shown.fields, MappingView)


async def list_adapters(question: ListAdapters, deps: EventsDeps) -> list[AdapterView]:
    """Return the built-in adapters, and those of the organization's workspace and the platform's, by name."""
    seen = {name: custom(one).view() for name, one in deps.adapters.of(question.org).items()} | DESCRIPTIONS
    return [seen[name] for name in sorted(seen)]


QUESTIONS: Questions = {
    **questions_of("events"),
    **deliveries.QUESTIONS,
    **dead_letters.QUESTIONS,
    **retries.QUESTIONS,
    GetMapping: get_mapping,
    ListAdapters: list_adapters,
    PreviewWebhook: preview_webhook,
}
