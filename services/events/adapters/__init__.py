"""Adapters: one file per kind of sender.

Each declares its settings (`DESCRIPTION`), declares for given settings how the gateway verifies a request (`verification`), and
reads a verified request (`parse`); a topic has no sender, and nothing to read. Adding an adapter is adding its file, and its name
below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog

from services.events.adapters import github, hmac, standard_webhooks, topic
from services.events.adapters.webhook import ParsedEvent, Webhook
from shared.questions.events import AdapterView
from shared.verification import Verification

Parse = Callable[[Webhook], list[ParsedEvent]]
Declare = Callable[[Mapping[str, Any]], Verification]

_SENT = (github, hmac, standard_webhooks)
PARSERS: dict[str, Parse] = {module.DESCRIPTION.name: module.parse for module in _SENT}
DESCRIPTIONS: dict[str, AdapterView] = {module.DESCRIPTION.name: module.DESCRIPTION for module in (*_SENT, topic)}
VERIFICATIONS: dict[str, Declare] = {module.DESCRIPTION.name: module.verification for module in (*_SENT, topic)}

_log = structlog.get_logger()


def verification_of(adapter: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return an adapter's verification for a source's settings, as JSON; None where nothing can be declared for them.

    Settings were checked when their source was put, perhaps by another version of the adapter.
    """
    try:
        document = msgspec.json.encode(VERIFICATIONS[adapter](settings))
        msgspec.json.decode(document, type=Verification)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        _log.error("source.undeclared", adapter=adapter, reason=f"{type(error).__name__}: {error}")
        return None
    declared: dict[str, Any] = msgspec.json.decode(document)
    return declared


__all__ = ["DESCRIPTIONS", "PARSERS", "VERIFICATIONS", "Parse", "ParsedEvent", "Webhook", "verification_of"]
