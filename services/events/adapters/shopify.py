"""Shopify webhooks."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Place, SignatureScheme, Verification

SCHEME = SignatureScheme(
    signature=Place(header="x-shopify-hmac-sha256"), encoding="base64", delivery=Place(header="x-shopify-webhook-id")
)
ADAPTER = Adapter(
    name="shopify",
    description="Shopify webhooks, verified by X-Shopify-Hmac-Sha256.",
    link="https://shopify.dev/docs/apps/build/webhooks",
    secrets={"secret": text("The app's client secret, or that of the shop's notifications.")},
    verification=lambda _: Verification(schemes=(SCHEME,)),
    parse=Reading(
        types=(Place(header="x-shopify-topic"),),
        kept=("x-shopify-topic", "x-shopify-shop-domain", "x-shopify-webhook-id", "x-shopify-event-id", "x-shopify-triggered-at"),
    ),
    entity="event.headers.x-shopify-shop-domain",
    event_types=(
        "app/uninstalled", "customers/create", "customers/data_request", "customers/redact", "fulfillments/create",
        "inventory_levels/update", "orders/create", "orders/paid", "orders/updated", "products/update",
        "refunds/create", "shop/redact",
    ),
    sample=Sample(
        headers={
            "Content-Type": "application/json",
            "X-Shopify-Topic": "orders/create",
            "X-Shopify-Shop-Domain": "example.myshopify.com",
            "X-Shopify-Webhook-Id": "b54557e4-bdd9-4b37-8a5f-bf7d70bcd043",
        },
        body='{"id":820982911946154508,"email":"jon@example.com","total_price":"403.00","currency":"USD"}',
        events=("orders/create",),
    ),
)  # fmt: skip
