"""Questions and commands in: all that this service answers; those of resources are answered as they are declared."""

from __future__ import annotations

from typing import Protocol

from services.events import dead_letters, deliveries, erasing, removing, replays, retries
from services.events.adapters import DESCRIPTIONS, custom
from services.events.awaiting import questions as awaiting
from services.events.holding import questions as holding
from services.events.mappings import MappingDeps, get_mapping
from services.events.previews import preview_subscription, preview_webhook
from services.events.schedules import questions as schedules
from shared.asking import Questions
from shared.owners.answering import Rotates, questions_of, rotate_keys
from shared.questions.events import AdapterView, GetMapping, ListAdapters, PreviewSubscription, PreviewWebhook
from shared.questions.rotation import RotateSettings


class EventsDeps(removing.EventsRemovingDeps, schedules.ScheduleDeps, MappingDeps, Rotates, Protocol):
    """Dependencies of questions and commands."""


async def list_adapters(question: ListAdapters, deps: EventsDeps) -> list[AdapterView]:
    """Return the built-in adapters, and those of the organization's workspace and the platform's, by name."""
    seen = {name: custom(one).view() for name, one in deps.adapters.of(question.org).items()} | DESCRIPTIONS
    return [seen[name] for name in sorted(seen)]


QUESTIONS: Questions = {
    **questions_of("events"),
    **deliveries.QUESTIONS,
    **dead_letters.QUESTIONS,
    **replays.QUESTIONS,
    **retries.QUESTIONS,
    **erasing.QUESTIONS,
    **removing.QUESTIONS,
    **schedules.QUESTIONS,
    **holding.QUESTIONS,
    **awaiting.QUESTIONS,
    GetMapping: get_mapping,
    ListAdapters: list_adapters,
    RotateSettings: rotate_keys,
    PreviewWebhook: preview_webhook,
    PreviewSubscription: preview_subscription,
}
