"""Audited actions: the actor, the action, its target, the origin and the outcome."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.messages.declaration import Message, message
from shared.messages.log import SERVICES


@message("audit.*", key="category", by=SERVICES, verb_field="verb")
class Audited(Message, frozen=True, kw_only=True):
    """`actor` did `verb` to `target`; `outcome` is `ok` or the kind of the refusal."""

    category: str
    verb: str
    actor: str
    target: str
    outcome: str
    remote: str | None = None
    detail: dict[str, Any] = msgspec.field(default_factory=dict)
