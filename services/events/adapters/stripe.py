"""Stripe webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from services.events.adapters.registering import Given, Registering, SenderResource
from shared.verification import Place, SignatureScheme, Verification


def scheme(header: str) -> SignatureScheme:
    """Return Stripe's scheme under another header's name: `t=…,v1=…` over time and body."""
    return SignatureScheme(
        signature=Place(header=header, prefix="v1=", separator=","),
        timestamp=Place(header=header, prefix="t=", separator=","),
        template="{timestamp}.{body}",
        delivery=Place(json="id"),
    )


def _resource(given: Mapping[str, Any]) -> SenderResource:
    changeable = {"url": Given.CALLBACK, "enabled_events": given["events"]}
    chosen = {name: given[name] for name in ("api_version", "connect") if name in given}
    return SenderResource(collection="webhook_endpoints", created=changeable | chosen, renewed=changeable | {"disabled": False})


REGISTERING = Registering(
    api="https://api.stripe.com/v1",
    settings={
        "events": {
            "type": "array",
            "description": "Which events are sent: charge.succeeded, or * for all but those that ask to be named.",
            "items": {"type": "string", "minLength": 1, "maxLength": 200},
            "minItems": 1,
            "maxItems": 300,
            "uniqueItems": True,
        },
        "api_version": text("The version of Stripe's API that events have: 2025-03-31.basil. Else the account's.", maxLength=64),
        "connect": {"type": "boolean", "description": "Whether events of connected accounts are sent, not the account's own."},
    },
    required=("events",),
    resource=_resource,
    # An account has some sixteen.
    items="data",
    renew="POST",
    callback="url",
    secret="secret",  # noqa: S106 - where it stands
    form=True,
    generates=False,
    advice={
        400: "check events and api_version, and that MILLRACE_PUBLIC_URL is an https address that is reached from the internet",
        403: "give the key the right to write webhook endpoints",
    },
)
SCHEME = scheme("stripe-signature")
ADAPTER = Adapter(
    name="stripe",
    description="Stripe events, verified by Stripe-Signature.",
    link="https://docs.stripe.com/webhooks",
    # The key is the whole text, whsec_ and all.
    secrets={"secret": text("The endpoint's signing secret, whsec_…")},
    required=(),
    one_of=(("secret", "registration"),),
    registering=REGISTERING,
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
