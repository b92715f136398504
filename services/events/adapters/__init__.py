"""Adapters: one file per kind of sender.

Each says what a source needs (`DESCRIPTION`) and reads a verified request (`parse`); a topic has no sender, and nothing to read.
"""

from __future__ import annotations

from collections.abc import Callable

from services.events.adapters import github, hmac, standard_webhooks, topic
from services.events.adapters.webhook import ParsedEvent, Webhook
from shared.questions.events import AdapterView

Parse = Callable[[Webhook], list[ParsedEvent]]

PARSERS: dict[str, Parse] = {module.DESCRIPTION.name: module.parse for module in (github, hmac, standard_webhooks)}
DESCRIPTIONS: dict[str, AdapterView] = {
    module.DESCRIPTION.name: module.DESCRIPTION for module in (github, hmac, standard_webhooks, topic)
}

__all__ = ["DESCRIPTIONS", "PARSERS", "Parse", "ParsedEvent", "Webhook"]
