"""The health and the metrics of a service: asked by the gateway for `/readyz` and `/metrics`, answered by all alike."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import msgspec

from shared.messages.log import SERVICES
from shared.questions.declaration import Question, question

# The gateway waits for all of them at once, while its own caller waits.
TIMEOUT = 1.0
# A service that is busy is the one whose metrics are wanted; Prometheus waits for ten.
METRICS_TIMEOUT = 5.0

Q = TypeVar("Q", bound=Question[Any])


class HealthQuestion(Question[dict[str, Any]], frozen=True, kw_only=True):
    """The document that a service answers as its `/readyz`."""


class Exposition(msgspec.Struct, frozen=True):
    """The metrics of a process in the text format of Prometheus."""

    text: str


class MetricsQuestion(Question[Exposition], frozen=True, kw_only=True):
    """What one replica of a service answers as its `/metrics`."""


def _declared(kind: type[Q], about: str, timeout: float) -> dict[str, type[Q]]:
    found: dict[str, type[Q]] = {}
    for service in SERVICES:
        if service != "gateway":
            name = f"{service.title()}{about.title()}"
            made = msgspec.defstruct(name, [], bases=(kind,), frozen=True, kw_only=True, module=__name__)
            found[service] = question(f"{service}.{about}", by="gateway", timeout=timeout)(cast("type[Q]", made))
    return found


HEALTH = _declared(HealthQuestion, "health", TIMEOUT)
METRICS = _declared(MetricsQuestion, "metrics", METRICS_TIMEOUT)
