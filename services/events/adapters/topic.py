"""Events that runs and users of the API emit: no webhook address, nothing to verify."""

from __future__ import annotations

from shared.questions.events import AdapterView

DESCRIPTION = AdapterView(
    name="topic",
    description="Events that workflows emit, or the API: POST /api/v1/sources/{name}/events. It has no webhook address.",
    settings_schema={"type": "object", "properties": {}, "additionalProperties": False},
    secrets=[],
)
