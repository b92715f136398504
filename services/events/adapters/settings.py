"""The settings that sources of every signing adapter have: the secret, the one before it during a change-over, a rate, a weight."""

from __future__ import annotations

from typing import Any

# One source's rate at each gateway; above it senders get a 429.
RATE = {
    "type": "object",
    "description": "Webhooks a second in the long run, and how many at once after a rest (default: those of a second).",
    "properties": {
        "per_second": {"type": "number", "minimum": 0.001, "maximum": 1_000_000},
        "burst": {"type": "integer", "minimum": 1, "maximum": 1_000_000},
    },
    "required": ["per_second"],
    "additionalProperties": False,
}
# The gateway bounds by it what may wait of one source while others wait.
WEIGHT = {
    "type": "integer",
    "description": "The source's share of the webhooks that may wait, as a multiple of that of a source without one.",
    "minimum": 1,
    "maximum": 10,
}


def schema(secret: dict[str, Any], **others: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema of a source's settings; both secrets have the form `secret`, `others` are open settings."""
    previous = secret | {"description": "Accepted beside the secret while it is set: the one before a rotation. null removes it."}
    return {
        "type": "object",
        "properties": {"secret": secret, "previous_secret": previous, "rate": RATE, "weight": WEIGHT, **others},
        "required": ["secret"],
        "additionalProperties": False,
    }
