"""Any sender that signs the raw body with an HMAC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.events.adapters.settings import schema
from services.events.adapters.webhook import ParsedEvent, Webhook
from shared.questions.events import AdapterView
from shared.verification import SECRETS, Place, SignatureScheme, Verification

DESCRIPTION = AdapterView(
    name="hmac",
    description="A sender that signs the raw body with an HMAC in a header.",
    settings_schema=schema(
        {"type": "string", "minLength": 1},
        header={"type": "string", "minLength": 1, "pattern": "^[A-Za-z0-9-]+$", "default": "X-Signature"},
        algorithm={"enum": ["sha1", "sha256", "sha512"], "default": "sha256"},
        encoding={"enum": ["hex", "base64"], "default": "hex"},
        prefix={"type": "string", "default": ""},
        event_header={"type": "string", "minLength": 1, "pattern": "^[A-Za-z0-9-]+$"},
        event_path={"type": "string", "minLength": 1, "description": "Dotted path to the type in a JSON body."},
        delivery_header={"type": "string", "minLength": 1, "pattern": "^[A-Za-z0-9-]+$"},
    ),
    secrets=[*SECRETS],
)
UNNAMED = "webhook"


def verification(settings: Mapping[str, Any]) -> Verification:
    """Return the scheme that the settings describe."""
    delivery = settings.get("delivery_header")
    scheme = SignatureScheme(
        signature=Place(header=(settings.get("header") or "X-Signature").lower(), prefix=settings.get("prefix") or ""),
        algorithm=f"hmac-{settings.get('algorithm') or 'sha256'}",  # type: ignore[arg-type]
        encoding=settings.get("encoding") or "hex",
        delivery=Place(header=delivery.lower()) if delivery else None,
    )
    return Verification(schemes=(scheme,))


def parse(webhook: Webhook) -> list[ParsedEvent]:
    """Return one event; its type comes from the header or the path that the settings name, else it is `webhook`."""
    data = webhook.data()
    type_ = UNNAMED
    header = webhook.settings.get("event_header")
    path = webhook.settings.get("event_path")
    if header:
        type_ = webhook.headers.get(header.lower(), "")
    elif path:
        type_ = _at(data, path)
    if not type_:
        raise webhook.lacks(f"event type: {f'header {header}' if header else f'{path} in its body'} is missing")
    return [ParsedEvent(type_, data, _content_type(webhook))]


def _at(data: Any, path: str) -> str:
    for part in path.split("."):
        if not isinstance(data, dict) or part not in data:
            return ""
        data = data[part]
    return data if isinstance(data, str) else ""


def _content_type(webhook: Webhook) -> dict[str, str]:
    found = webhook.headers.get("content-type")
    return {"content-type": found} if found else {}
