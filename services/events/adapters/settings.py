"""The settings that sources of every signing adapter have: the secret, and the one before it while a sender changes over."""

from __future__ import annotations

from typing import Any

SECRETS = ["secret", "previous_secret"]


def schema(secret: dict[str, Any], **others: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema of a source's settings; both secrets have the form `secret`, `others` are open settings."""
    previous = secret | {"description": "Accepted beside the secret while it is set: the one before a rotation. null removes it."}
    return {
        "type": "object",
        "properties": {"secret": secret, "previous_secret": previous, **others},
        "required": ["secret"],
        "additionalProperties": False,
    }
