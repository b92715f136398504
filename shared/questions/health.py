"""The health of a service: asked by the gateway for its `/readyz`, answered by every service in the same way."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.messages.log import SERVICES
from shared.questions.declaration import Question, question

# The gateway waits for all of them at once, while its own caller waits.
TIMEOUT = 1.0


def _declared(service: str) -> type[msgspec.Struct]:
    cls: type[msgspec.Struct] = msgspec.defstruct(
        f"{service.title()}Health", [], bases=(Question,), frozen=True, kw_only=True, module=__name__
    )
    return question(f"{service}.health", by="gateway", answer=dict[str, Any], timeout=TIMEOUT)(cls)


HEALTH: dict[str, type[msgspec.Struct]] = {service: _declared(service) for service in SERVICES if service != "gateway"}
