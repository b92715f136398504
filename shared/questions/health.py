"""The health of a service: asked by the gateway for its `/readyz`, answered by every service in the same way."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from shared.messages.log import SERVICES
from shared.questions.declaration import Question, question

# The gateway waits for all of them at once, while its own caller waits.
TIMEOUT = 1.0


class HealthQuestion(Question[dict[str, Any]], frozen=True, kw_only=True):
    """The document that a service answers as its `/readyz`."""


def _declared(service: str) -> type[HealthQuestion]:
    made = msgspec.defstruct(f"{service.title()}Health", [], bases=(HealthQuestion,), frozen=True, kw_only=True, module=__name__)
    return question(f"{service}.health", by="gateway", timeout=TIMEOUT)(cast("type[HealthQuestion]", made))


HEALTH: dict[str, type[HealthQuestion]] = {service: _declared(service) for service in SERVICES if service != "gateway"}
