"""Dropbox webhooks."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import UNNAMED
from services.events.adapters.webhook import ParsedEvent, Webhook
from shared.verification import Acknowledgement, Handshake, Place, SignatureScheme, Verification

SCHEME = SignatureScheme(signature=Place(header="x-dropbox-signature"))
_TYPES = ("list_folder", "delta", "file_requests")


def parse(webhook: Webhook) -> list[ParsedEvent]:
    """Return one event, of the type of the member that the request has: which accounts changed. Raises `Invalid`."""
    data = webhook.json()
    found = next((name for name in _TYPES if isinstance(data, dict) and name in data), UNNAMED)
    return [ParsedEvent(found, data)]


ADAPTER = Adapter(
    name="dropbox",
    description="Dropbox webhooks, verified by X-Dropbox-Signature: they name the accounts that changed.",
    link="https://www.dropbox.com/developers/reference/webhooks",
    secrets={"secret": text("The app secret.")},
    handshake="GET with ?challenge, answered as text.",
    verification=lambda _: Verification(
        schemes=(SCHEME,), handshakes=(Handshake(challenge=Place(query="challenge")),), acknowledgement=Acknowledgement()
    ),
    parse=parse,
    event_types=_TYPES,
    sample=Sample(
        headers={"Content-Type": "application/json"},
        body='{"list_folder":{"accounts":["dbid:AAH4f99T0taONIb-OurWxbNQ6ywGRopQngc"]},"delta":{"users":[12345678]}}',
        events=("list_folder",),
    ),
)
