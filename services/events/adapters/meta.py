"""Meta: Facebook, Instagram, Messenger and WhatsApp."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import UNNAMED, bounded
from services.events.adapters.webhook import ParsedEvent, Webhook
from shared.verification import Acknowledgement, Handshake, Place, SignatureScheme, Verification

SCHEME = SignatureScheme(signature=Place(header="x-hub-signature-256", prefix="sha256="))
# The lists of an entry, and the member of an item that names its kind.
_LISTS = {"changes": "field", "messaging": None, "standby": None}


def parse(webhook: Webhook) -> list[ParsedEvent]:
    """Return an event for each change of each entry: `page.feed`, `whatsapp_business_account.messages`.

    Its data has the shape of the request, with this one entry and change. Raises `Invalid`.
    """
    data = webhook.json()
    return bounded(_events(data)) or [ParsedEvent(UNNAMED, data)]


def _events(data: Any) -> Iterator[ParsedEvent]:
    entries = data.get("entry") if isinstance(data, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        for name, kind in _LISTS.items():
            items = entry.get(name) if isinstance(entry, dict) else None
            rest = {key: value for key, value in entry.items() if key not in _LISTS} if isinstance(items, list) else {}
            for item in items if isinstance(items, list) else ():
                named = item.get(kind) if kind is not None and isinstance(item, dict) else None
                type_ = f"{data.get('object')}.{named if isinstance(named, str) else name}"
                yield ParsedEvent(type_, {**data, "entry": [{**rest, name: [item]}]})


ADAPTER = Adapter(
    name="meta",
    description="Webhooks of Facebook, Instagram, Messenger and WhatsApp, verified by X-Hub-Signature-256.",
    link="https://developers.facebook.com/docs/graph-api/webhooks/getting-started",
    secrets={
        "secret": text("The app's secret."),
        "verify_token": text("The verify token: any text, as it is given to the app with the address."),
    },
    required=("secret", "verify_token"),
    handshake="GET with hub.mode=subscribe: hub.challenge is answered where hub.verify_token is the source's, else 403.",
    verification=lambda _: Verification(
        schemes=(SCHEME,),
        handshakes=(
            Handshake(
                when=((Place(query="hub.mode"), "subscribe"),),
                challenge=Place(query="hub.challenge"),
                token=Place(query="hub.verify_token"),
                keys=("verify_token",),
            ),
        ),
        redacted=(Place(header="x-hub-signature"),),
        acknowledgement=Acknowledgement(),
    ),
    parse=parse,
    event_types=(
        "page.feed", "page.messaging", "page.leadgen", "instagram.comments", "instagram.messages", "user.email",
        "permissions.connected", "whatsapp_business_account.messages",
        "whatsapp_business_account.message_template_status_update",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json"},
        body='{"object":"whatsapp_business_account","entry":[{"id":"102290129340398","changes":[{"field":"messages","value":'
        '{"messages":[{"from":"16505551234","type":"text","text":{"body":"Hi"}}]}},{"field":"account_update","value":{}}]}]}',
        events=("whatsapp_business_account.messages", "whatsapp_business_account.account_update"),
    ),
)  # fmt: skip
