"""CloudEvents 1.0 over HTTP, in every content mode."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import UNNAMED, bounded
from services.events.adapters.webhook import ParsedEvent, Webhook
from shared.errors import Invalid
from shared.verification import Handshake, Place, SignatureScheme, Verification

_BATCH = "application/cloudevents-batch+json"
_STRUCTURED = "application/cloudevents+json"


def _schemes(signature: Place) -> tuple[SignatureScheme, SignatureScheme]:
    """Return a token's schemes: of the binary mode, whose attributes are headers, and of the structured one."""
    binary = SignatureScheme(
        algorithm="token",
        signature=signature,
        encoding="text",
        values={"id": Place(header="ce-id")},
        delivery=Place(header="ce-id"),
        delivery_with=(Place(header="ce-source"),),
    )
    structured = SignatureScheme(
        algorithm="token",
        signature=signature,
        encoding="text",
        when=((Place(header="ce-id", default=""), ""),),
        delivery=Place(json="id"),
        delivery_with=(Place(json="source"),),
    )
    return binary, structured


def parse(webhook: Webhook) -> list[ParsedEvent]:
    """Return the events, each as a CloudEvent in its JSON form. Raises `Invalid` for one without a type."""
    if webhook.media_type == _BATCH:
        events = webhook.json()
        if not isinstance(events, list):
            raise webhook.lacks("list of events")
        return [_event(event) for event in bounded(events)] or [ParsedEvent(UNNAMED, events)]
    if webhook.media_type == _STRUCTURED or "ce-type" not in webhook.headers:
        return [_event(webhook.json())]
    attributes = {name[3:]: unquote(value) for name, value in webhook.headers.items() if name.startswith("ce-")}
    if "content-type" in webhook.headers:
        attributes["datacontenttype"] = webhook.headers["content-type"]
    return [_event({**attributes, "data": webhook.data()})]


def _event(event: Any) -> ParsedEvent:
    type_ = event.get("type") if isinstance(event, dict) else None
    if not isinstance(type_, str):
        raise Invalid("the request is no CloudEvent: it has no type")
    return ParsedEvent(type_, event)


ADAPTER = Adapter(
    name="cloudevents",
    description="CloudEvents, of Azure Event Grid, Knative and others; a token in Authorization: Bearer, or in ?access_token.",
    link="https://github.com/cloudevents/spec/blob/main/cloudevents/http-webhook.md",
    secrets={"secret": text("The access token.")},
    settings={
        "allowed_rate": {"type": "integer", "minimum": 1, "description": "The requests a minute that senders are allowed."},
    },
    handshake="OPTIONS with WebHook-Request-Origin, answered with WebHook-Allowed-Origin, WebHook-Allowed-Rate and Allow.",
    verification=lambda settings: Verification(
        schemes=(
            *_schemes(Place(header="authorization", prefix="Bearer ")),
            *_schemes(Place(query="access_token")),
        ),
        handshakes=(
            Handshake(
                method="OPTIONS",
                challenge=Place(header="webhook-request-origin"),
                text="",
                headers={
                    "Allow": "POST",
                    "WebHook-Allowed-Origin": "{challenge}",
                    "WebHook-Allowed-Rate": str(settings.get("allowed_rate") or "*"),
                },
            ),
        ),
    ),
    parse=parse,
    sample=Sample(
        headers={"Content-Type": _STRUCTURED},
        body='{"specversion":"1.0","type":"com.github.pull_request.opened","source":"https://github.com/cloudevents/spec/pull",'
        '"id":"A234-1234-1234","time":"2018-04-05T17:31:00Z","data":{"number":123}}',
        events=("com.github.pull_request.opened",),
    ),
)
