"""Square webhooks."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Place, SignatureScheme, Verification

SCHEME = SignatureScheme(
    signature=Place(header="x-square-hmacsha256-signature"),
    encoding="base64",
    template="{url}{body}",
    delivery=Place(json="event_id"),
)
ADAPTER = Adapter(
    name="square",
    description="Square webhooks, verified by x-square-hmacsha256-signature over the source's public address and the body.",
    link="https://developer.squareup.com/docs/webhooks/overview",
    secrets={"secret": text("The subscription's signature key.")},
    verification=lambda _: Verification(schemes=(SCHEME,)),
    parse=Reading(types=(Place(json="type"),), kept=("square-retry-number", "square-retry-reason", "square-environment")),
    entity="event.data.merchant_id",
    event_types=(
        "payment.created", "payment.updated", "refund.created", "order.created", "order.updated", "invoice.payment_made",
        "customer.created", "catalog.version.updated", "inventory.count.updated", "dispute.created",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json"},
        body='{"merchant_id":"6SSW7HV8K2ST5","type":"payment.created","event_id":"13b867cf-db3d-4b1c-90b6-2f32a9d78124",'
        '"data":{"type":"payment","id":"KkAkhdMsgzn59SM8A89WgKwekxLZY"}}',
        events=("payment.created",),
    ),
)  # fmt: skip
