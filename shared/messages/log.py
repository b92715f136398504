"""A service's own structured log."""

from __future__ import annotations

from typing import Any

from shared.messages.declaration import Message, message

SERVICES = ("gateway", "events", "executor", "oauth", "logs")


@message("log.*", key="service", by=SERVICES, verb_field="level")
class Logged(Message, frozen=True, kw_only=True):
    """A service has logged `event` with `fields`."""

    service: str
    level: str
    event: str
    fields: dict[str, Any]
