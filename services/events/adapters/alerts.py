"""Alerts of Millrace itself: the topic `millrace` of an organization, without an address; nobody else emits into it."""

from __future__ import annotations

from typing import get_args

from services.events.adapters.declared import Adapter
from services.events.domain import ALERTS, AlertType
from shared.verification import Verification

ADAPTER = Adapter(
    name=ALERTS,
    description="What went wrong, as events of the topic `millrace`. It has no webhook address, and nobody emits into it.",
    link=None,
    verification=lambda _: Verification(methods=()),
    parse=None,
    required=(),
    event_types=get_args(AlertType),
)
