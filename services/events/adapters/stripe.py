"""Stripe webhooks."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Place, SignatureScheme, Verification


def scheme(header: str) -> SignatureScheme:
    """Return Stripe's scheme under another header's name: `t=…,v1=…` over time and body."""
    return SignatureScheme(
        signature=Place(header=header, prefix="v1=", separator=","),
        timestamp=Place(header=header, prefix="t=", separator=","),
        template="{timestamp}.{body}",
        delivery=Place(json="id"),
    )


SCHEME = scheme("stripe-signature")
ADAPTER = Adapter(
    name="stripe",
    description="Stripe events, verified by Stripe-Signature.",
    link="https://docs.stripe.com/webhooks",
    # The key is the whole text, whsec_ and all.
    secrets={"secret": text("The endpoint's signing secret, whsec_…")},
    verification=lambda _: Verification(schemes=(SCHEME,)),
    parse=Reading(types=(Place(json="type"),)),
    entity="event.data.account",
    event_types=(
        "charge.refunded", "charge.succeeded", "checkout.session.completed", "customer.created",
        "customer.subscription.created",
        "customer.subscription.deleted", "customer.subscription.updated", "invoice.paid", "invoice.payment_failed",
        "payment_intent.payment_failed", "payment_intent.succeeded", "payout.paid",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json; charset=utf-8"},
        body='{"id":"evt_1NG8Du2eZvKYlo2CUI79vXWy","object":"event","type":"invoice.paid","data":{"object":{"id":"in_1"}}}',
        events=("invoice.paid",),
    ),
)  # fmt: skip
