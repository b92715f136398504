"""Jira webhooks."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Place, SignatureScheme, Verification

SCHEME = SignatureScheme(
    signature=Place(header="x-hub-signature", prefix="sha256="), delivery=Place(header="x-atlassian-webhook-identifier")
)
ADAPTER = Adapter(
    name="jira",
    description="Jira webhooks, verified by X-Hub-Signature.",
    link="https://developer.atlassian.com/cloud/jira/platform/webhooks/",
    secrets={"secret": text("The webhook's secret.")},
    verification=lambda _: Verification(schemes=(SCHEME,)),
    parse=Reading(types=(Place(json="webhookEvent"),), kept=("x-atlassian-webhook-identifier", "x-atlassian-webhook-retry")),
    event_types=(
        "jira:issue_created", "jira:issue_updated", "jira:issue_deleted", "comment_created", "comment_updated",
        "worklog_created",
        "sprint_started", "sprint_closed", "jira:version_released", "user_created",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json", "X-Atlassian-Webhook-Identifier": "0a1b"},
        body='{"timestamp":1525698237764,"webhookEvent":"jira:issue_updated","issue":{"id":"99291","key":"JRA-20002"}}',
        events=("jira:issue_updated",),
    ),
)  # fmt: skip
