"""Mux webhooks."""

from __future__ import annotations

from services.events.adapters import stripe
from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Place, Verification

SCHEME = stripe.scheme("mux-signature")
ADAPTER = Adapter(
    name="mux",
    description="Mux webhooks, verified by mux-signature.",
    link="https://www.mux.com/docs/core/verify-webhook-signatures",
    secrets={"secret": text("The webhook's signing secret.")},
    verification=lambda _: Verification(schemes=(SCHEME,)),
    parse=Reading(types=(Place(json="type"),)),
    event_types=(
        "video.asset.created", "video.asset.ready", "video.asset.errored", "video.asset.deleted", "video.upload.asset_created",
        "video.live_stream.active", "video.live_stream.idle",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json"},
        body='{"type":"video.asset.ready","id":"3a56ac3d-33da-4366-855b-f592d898409d","data":{"id":"0201p02fGKPE","status":"ready"}}',
        events=("video.asset.ready",),
    ),
)  # fmt: skip
