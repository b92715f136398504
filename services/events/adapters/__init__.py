"""Adapters: one file per kind of sender. Each says what a source needs (`DESCRIPTION`) and reads a verified request (`parse`)."""

from __future__ import annotations

from collections.abc import Callable

from services.events.adapters import github, hmac, standard_webhooks
from services.events.adapters.webhook import ParsedEvent, Webhook
from shared.questions.events import AdapterView

Parse = Callable[[Webhook], list[ParsedEvent]]

DESCRIPTIONS: dict[str, AdapterView] = {module.DESCRIPTION.name: module.DESCRIPTION for module in (github, hmac, standard_webhooks)}
PARSERS: dict[str, Parse] = {module.DESCRIPTION.name: module.parse for module in (github, hmac, standard_webhooks)}

__all__ = ["DESCRIPTIONS", "PARSERS", "ParsedEvent", "Webhook"]
