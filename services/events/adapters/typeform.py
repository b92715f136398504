"""Typeform webhooks."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Place, SignatureScheme, Verification

SCHEME = SignatureScheme(
    signature=Place(header="typeform-signature", prefix="sha256="), encoding="base64", delivery=Place(json="event_id")
)
ADAPTER = Adapter(
    name="typeform",
    description="Typeform webhooks, verified by Typeform-Signature.",
    link="https://www.typeform.com/developers/webhooks/",
    secrets={"secret": text("The webhook's secret.")},
    verification=lambda _: Verification(schemes=(SCHEME,)),
    parse=Reading(types=(Place(json="event_type"),)),
    event_types=("form_response", "form_response_partial"),
    sample=Sample(
        headers={"Content-Type": "application/json"},
        body='{"event_id":"LtWXD3crgy","event_type":"form_response","form_response":{"form_id":"lT4Z3j","answers":[]}}',
        events=("form_response",),
    ),
)
