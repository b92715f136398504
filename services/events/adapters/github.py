"""GitHub webhooks (docs.github.com, "Webhook events and payloads")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.events.adapters.settings import schema
from services.events.adapters.webhook import FORM, ParsedEvent, Webhook
from shared.errors import Invalid
from shared.questions.events import AdapterView
from shared.verification import SECRETS, Place, SignatureScheme, Verification

DESCRIPTION = AdapterView(
    name="github",
    description="GitHub repository, organization and app webhooks, verified by X-Hub-Signature-256.",
    settings_schema=schema({"type": "string", "minLength": 1, "description": "The webhook's secret."}),
    secrets=[*SECRETS],
)
_KEPT = ("x-github-event", "x-github-delivery", "x-github-hook-id", "user-agent")
SCHEME = SignatureScheme(
    signature=Place(header="x-hub-signature-256", prefix="sha256="), delivery=Place(header="x-github-delivery")
)


def verification(_settings: Mapping[str, Any]) -> Verification:
    """Return how GitHub's webhooks are verified. Their older signature, by SHA-1, is sent beside and not looked at."""
    return Verification(
        schemes=(SCHEME,),
        content_types=("application/json", FORM),
        redacted=(Place(header="x-hub-signature"),),
    )


def parse(webhook: Webhook) -> list[ParsedEvent]:
    """Return one event: `push`, or with an action `pull_request.opened`. Raises `Invalid` without an event header."""
    name = webhook.headers.get("x-github-event")
    if not name:
        raise Invalid("the request has no X-GitHub-Event header")
    if webhook.media_type == FORM:
        payload = webhook.form().get("payload")
        if not isinstance(payload, str):
            raise webhook.lacks("form field named payload")
        data = Webhook({}, {}, payload.encode(), {}).json()
    else:
        data = webhook.json()
    action = data.get("action") if isinstance(data, dict) else None
    type_ = f"{name}.{action}" if isinstance(action, str) and action else name
    kept = {header: webhook.headers[header] for header in _KEPT if header in webhook.headers}
    return [ParsedEvent(type_, data, kept)]
