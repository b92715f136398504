"""Standard Webhooks (github.com/standard-webhooks/standard-webhooks), also Svix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.events.adapters.settings import schema
from services.events.adapters.webhook import ParsedEvent, Webhook
from shared.questions.events import AdapterView
from shared.verification import SECRETS, Place, SignatureScheme, Verification

DESCRIPTION = AdapterView(
    name="standard-webhooks",
    description="Standard Webhooks and Svix: webhook-id, webhook-timestamp and webhook-signature.",
    settings_schema=schema(
        {
            "type": "string",
            "pattern": "^(whsec_)?[A-Za-z0-9+/]+={0,2}$",
            "description": "whsec_ and base64, as the sender shows it.",
        }
    ),
    secrets=[*SECRETS],
)
UNNAMED = "webhook"


def _scheme(name: str) -> SignatureScheme:
    identity = Place(header=f"{name}-id")
    return SignatureScheme(
        signature=Place(header=f"{name}-signature", separator=" ", prefix="v1,"),
        encoding="base64",
        template="{id}.{timestamp}.{body}",
        values={"id": identity},
        timestamp=Place(header=f"{name}-timestamp"),
        key_encoding="base64",
        key_prefix="whsec_",
        delivery=identity,
    )


def verification(_settings: Mapping[str, Any]) -> Verification:
    """Return the standard's scheme, also under the names that Svix gave it before it was a standard."""
    return Verification(schemes=(_scheme("webhook"), _scheme("svix")))


def parse(webhook: Webhook) -> list[ParsedEvent]:
    """Return one event of the type that the payload's `type` names, else `webhook`."""
    data = webhook.json()
    type_ = data.get("type") if isinstance(data, dict) else None
    kept: dict[str, str] = {name: webhook.headers[name] for name in ("webhook-id", "svix-id") if name in webhook.headers}
    return [ParsedEvent(type_ if isinstance(type_, str) and type_ else UNNAMED, data, kept)]
