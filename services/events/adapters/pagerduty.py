"""PagerDuty webhooks, version 3."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Place, SignatureScheme, Verification

SCHEME = SignatureScheme(
    signature=Place(header="x-pagerduty-signature", prefix="v1=", separator=","),
    delivery=Place(json="event.id"),
    # One event is sent for each subscription.
    delivery_with=(Place(header="x-webhook-subscription"),),
)
ADAPTER = Adapter(
    name="pagerduty",
    description="PagerDuty V3 webhooks, verified by X-PagerDuty-Signature.",
    link="https://developer.pagerduty.com/docs/webhooks-overview",
    secrets={"secret": text("The subscription's signing secret.")},
    verification=lambda _: Verification(schemes=(SCHEME,)),
    parse=Reading(types=(Place(json="event.event_type"),), kept=("x-webhook-subscription",)),
    event_types=(
        "incident.triggered", "incident.acknowledged", "incident.escalated", "incident.reassigned", "incident.resolved",
        "incident.priority_updated", "incident.annotated", "service.created", "service.updated", "pagey.ping",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json"},
        body='{"event":{"id":"01BWDWL3NYY7LUFPZCC28QUCMK","event_type":"incident.priority_updated","data":{"id":"PGR0VU2"}}}',
        events=("incident.priority_updated",),
    ),
)  # fmt: skip
