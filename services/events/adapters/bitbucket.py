"""Bitbucket Cloud and Data Center webhooks."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Place, SignatureScheme, Verification

SCHEME = SignatureScheme(signature=Place(header="x-hub-signature", prefix="sha256="), delivery=Place(header="x-request-uuid"))
ADAPTER = Adapter(
    name="bitbucket",
    description="Bitbucket repository and workspace webhooks, verified by X-Hub-Signature.",
    link="https://support.atlassian.com/bitbucket-cloud/docs/manage-webhooks/",
    secrets={"secret": text("The webhook's secret.")},
    verification=lambda _: Verification(schemes=(SCHEME,)),
    parse=Reading(types=(Place(header="x-event-key"),), kept=("x-event-key", "x-request-uuid", "x-hook-uuid", "x-attempt-number")),
    event_types=(
        "repo:push", "repo:fork", "repo:updated", "repo:commit_status_created", "issue:created", "issue:updated",
        "pullrequest:created", "pullrequest:updated", "pullrequest:approved", "pullrequest:fulfilled", "pullrequest:rejected",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json", "X-Event-Key": "repo:push", "X-Request-UUID": "8c8b2f3e"},
        body='{"actor":{"nickname":"emma"},"repository":{"full_name":"team/repo"},"push":{"changes":[{"new":{"name":"main"}}]}}',
        events=("repo:push",),
    ),
)  # fmt: skip
