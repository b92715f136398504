"""Razorpay webhooks."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Place, SignatureScheme, Verification

SCHEME = SignatureScheme(signature=Place(header="x-razorpay-signature"), delivery=Place(header="x-razorpay-event-id"))
ADAPTER = Adapter(
    name="razorpay",
    description="Razorpay webhooks, verified by X-Razorpay-Signature.",
    link="https://razorpay.com/docs/webhooks/",
    secrets={"secret": text("The webhook's secret.")},
    verification=lambda _: Verification(schemes=(SCHEME,)),
    parse=Reading(types=(Place(json="event"),), kept=("x-razorpay-event-id",)),
    event_types=(
        "payment.authorized", "payment.captured", "payment.failed", "order.paid", "refund.processed", "subscription.charged",
        "invoice.paid", "settlement.processed",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json", "X-Razorpay-Event-Id": "EaXbMnAb4CNm9c"},
        body='{"entity":"event","event":"payment.captured","payload":{"payment":{"entity":{"id":"pay_DESlfW9H8K9uqM"}}}}',
        events=("payment.captured",),
    ),
)  # fmt: skip
