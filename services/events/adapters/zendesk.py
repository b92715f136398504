"""Zendesk webhooks."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Place, SignatureScheme, Verification

_HEADER = "x-zendesk-webhook-signature"
SCHEME = SignatureScheme(
    signature=Place(header=_HEADER),
    encoding="base64",
    timestamp=Place(header=f"{_HEADER}-timestamp"),
    timestamp_unit="rfc3339",
    template="{timestamp}{body}",
    delivery=Place(header="x-zendesk-webhook-invocation-id"),
)
ADAPTER = Adapter(
    name="zendesk",
    description="Zendesk webhooks, of events or of triggers, verified by X-Zendesk-Webhook-Signature.",
    link="https://developer.zendesk.com/documentation/webhooks/verifying/",
    secrets={"secret": text("The webhook's signing secret.")},
    verification=lambda _: Verification(schemes=(SCHEME,)),
    parse=Reading(types=(Place(json="type"),), kept=("x-zendesk-webhook-id", "x-zendesk-webhook-invocation-id")),
    entity="event.data.account_id",
    event_types=(
        "zen:event-type:user.created", "zen:event-type:user.role_changed", "zen:event-type:organization.created",
        "zen:event-type:ticket.created", "zen:event-type:ticket.status_changed", "zen:event-type:article.published",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json"},
        body='{"account_id":123,"type":"zen:event-type:user.created","id":"fc57de6b","subject":"zen:user:6596848315901"}',
        events=("zen:event-type:user.created",),
    ),
)  # fmt: skip
