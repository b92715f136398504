"""Paddle Billing notifications."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Acknowledgement, Place, SignatureScheme, Verification

_HEADER = "paddle-signature"
SCHEME = SignatureScheme(
    signature=Place(header=_HEADER, prefix="h1=", separator=";"),
    timestamp=Place(header=_HEADER, prefix="ts=", separator=";"),
    template="{timestamp}:{body}",
    # A replay is a notification of its own, of the same event.
    delivery=Place(json="notification_id"),
)
ADAPTER = Adapter(
    name="paddle",
    description="Paddle Billing notifications, verified by Paddle-Signature.",
    link="https://developer.paddle.com/webhooks/overview",
    secrets={"secret": text("The notification destination's secret key, pdl_ntfset_…")},
    verification=lambda _: Verification(schemes=(SCHEME,), acknowledgement=Acknowledgement()),
    parse=Reading(types=(Place(json="event_type"),)),
    event_types=(
        "customer.created", "subscription.activated", "subscription.canceled", "subscription.past_due", "subscription.updated",
        "transaction.completed", "transaction.paid", "transaction.payment_failed", "adjustment.created", "price.created",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json"},
        body='{"data":{"id":"pri_01hsdn96k2hxjzsq5yerecdj9j"},"event_id":"evt_01hsdn97563968dy0szkmgjwh3",'
        '"event_type":"price.created","notification_id":"ntf_01hsdn977e920kbgzt6r6c9rqc"}',
        events=("price.created",),
    ),
)  # fmt: skip
