"""Sentry integration webhooks."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Place, SignatureScheme, Verification

SCHEME = SignatureScheme(signature=Place(header="sentry-hook-signature"), delivery=Place(header="request-id"))
ADAPTER = Adapter(
    name="sentry",
    description="Sentry integration webhooks, verified by Sentry-Hook-Signature.",
    link="https://docs.sentry.io/organization/integrations/integration-platform/webhooks/",
    secrets={"secret": text("The integration's client secret.")},
    verification=lambda _: Verification(schemes=(SCHEME,)),
    parse=Reading(
        types=(Place(header="sentry-hook-resource"),),
        action=Place(json="action"),
        kept=("sentry-hook-resource", "sentry-hook-timestamp", "request-id"),
    ),
    entity="event.data.installation.uuid",
    event_types=(
        "installation.created", "installation.deleted", "issue.created", "issue.resolved", "issue.assigned", "error.created",
        "comment.created", "event_alert.triggered", "metric_alert.critical", "metric_alert.resolved",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json", "Sentry-Hook-Resource": "issue", "Request-ID": "e1b9a5b4"},
        body='{"action":"created","installation":{"uuid":"24b0d1a8"},"data":{"issue":{"id":"1170820242"}}}',
        events=("issue.created",),
    ),
)  # fmt: skip
