"""Sanity webhooks."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Place, SignatureScheme, Verification

_HEADER = "sanity-webhook-signature"
SCHEME = SignatureScheme(
    signature=Place(header=_HEADER, prefix="v1=", separator=","),
    timestamp=Place(header=_HEADER, prefix="t=", separator=","),
    timestamp_unit="ms",
    encoding="base64url",
    template="{timestamp}.{body}",
    delivery=Place(header="idempotency-key"),
)
ADAPTER = Adapter(
    name="sanity",
    description="Sanity's GROQ-powered webhooks, verified by sanity-webhook-signature.",
    link="https://www.sanity.io/docs/content-lake/webhooks",
    secrets={"secret": text("The webhook's secret.")},
    verification=lambda _: Verification(schemes=(SCHEME,)),
    parse=Reading(
        types=(Place(header="sanity-operation"),),
        kept=("sanity-operation", "sanity-document-id", "sanity-dataset", "sanity-project-id", "sanity-transaction-id"),
    ),
    event_types=("create", "update", "delete"),
    sample=Sample(
        headers={"Content-Type": "application/json", "sanity-operation": "update", "sanity-document-id": "resume"},
        body='{"_id":"resume","_type":"document"}',
        events=("update",),
    ),
)
