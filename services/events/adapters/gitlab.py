"""GitLab webhooks."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Place, SignatureScheme, Verification

SCHEME = SignatureScheme(
    algorithm="token",
    signature=Place(header="x-gitlab-token"),
    encoding="text",
    delivery=Place(header="idempotency-key"),
    # A person who resends a request sends the same key, as another webhook. GitLab does not retry by itself.
    delivery_with=(Place(header="x-gitlab-webhook-uuid"),),
)
ADAPTER = Adapter(
    name="gitlab",
    description="GitLab project, group and system hooks, verified by X-Gitlab-Token.",
    link="https://docs.gitlab.com/user/project/integrations/webhook_events/",
    secrets={"secret": text("The webhook's secret token.")},
    verification=lambda _: Verification(schemes=(SCHEME,)),
    parse=Reading(
        types=(Place(json="object_kind"), Place(json="event_name"), Place(header="x-gitlab-event")),
        action=Place(json="object_attributes.action"),
        kept=("x-gitlab-event", "x-gitlab-instance", "x-gitlab-webhook-uuid", "x-gitlab-event-uuid", "idempotency-key"),
    ),
    event_types=(
        "push", "tag_push", "issue.open", "issue.close", "note.create", "merge_request.open", "merge_request.merge",
        "merge_request.update", "wiki_page.create", "pipeline", "build", "deployment", "release",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json", "X-Gitlab-Event": "Merge Request Hook", "Idempotency-Key": "f5e5f430"},
        body='{"object_kind":"merge_request","event_type":"merge_request","object_attributes":{"iid":1,"action":"open"}}',
        events=("merge_request.open",),
    ),
)  # fmt: skip
