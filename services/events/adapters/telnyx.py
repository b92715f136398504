"""Telnyx webhooks."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Place, SignatureScheme, Verification

SCHEME = SignatureScheme(
    algorithm="ed25519",
    signature=Place(header="telnyx-signature-ed25519"),
    encoding="base64",
    timestamp=Place(header="telnyx-timestamp"),
    template="{timestamp}|{body}",
    keys=("public_key",),
    key_encoding="base64",
    delivery=Place(json="data.id"),
)
ADAPTER = Adapter(
    name="telnyx",
    description="Telnyx webhooks, verified by telnyx-signature-ed25519 and the account's public key.",
    link="https://developers.telnyx.com/development/api-fundamentals/webhooks/receiving-webhooks",
    settings={"public_key": text("The public key, base64, as the portal shows it.", pattern="^[A-Za-z0-9+/]{43}=$")},
    required=("public_key",),
    verification=lambda _: Verification(schemes=(SCHEME,)),
    parse=Reading(types=(Place(json="data.event_type"),)),
    event_types=(
        "call.initiated", "call.answered", "call.hangup", "call.recording.saved", "message.received", "message.sent",
        "message.finalized", "number_order.complete",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json"},
        body='{"data":{"record_type":"event","event_type":"message.received","id":"b301ed3f-1490-491f-995f-6e64e69674d4",'
        '"payload":{"text":"Hello from Telnyx!"}},"meta":{"attempt":1}}',
        events=("message.received",),
    ),
)  # fmt: skip
