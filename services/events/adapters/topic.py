"""Events that runs and users of the API emit: no webhook address, nothing to verify."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.questions.events import AdapterView
from shared.verification import Verification

DESCRIPTION = AdapterView(
    name="topic",
    description="Events that workflows emit, or the API: POST /api/v1/sources/{name}/events. It has no webhook address.",
    settings_schema={"type": "object", "properties": {}, "additionalProperties": False},
    secrets=[],
)


def verification(_settings: Mapping[str, Any]) -> Verification:
    """Return that there is no address to send to."""
    return Verification(methods=())
