"""Linear webhooks."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Place, SignatureScheme, Verification

SCHEME = SignatureScheme(
    signature=Place(header="linear-signature"),
    # Within the body that is signed.
    timestamp=Place(json="webhookTimestamp"),
    timestamp_unit="ms",
    delivery=Place(header="linear-delivery"),
)
ADAPTER = Adapter(
    name="linear",
    description="Linear webhooks, verified by Linear-Signature.",
    link="https://linear.app/developers/webhooks",
    secrets={"secret": text("The webhook's signing secret.")},
    verification=lambda _: Verification(schemes=(SCHEME,)),
    parse=Reading(types=(Place(json="type"),), action=Place(json="action"), kept=("linear-event", "linear-delivery")),
    entity="event.data.organizationId",
    event_types=(
        "Issue.create", "Issue.update", "Issue.remove", "Comment.create", "Project.update", "Cycle.update",
        "IssueLabel.create",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json; charset=utf-8", "Linear-Event": "Issue", "Linear-Delivery": "234d1a4e"},
        body='{"action":"create","type":"Issue","data":{"id":"2174add1","title":"A bug"},"webhookTimestamp":1676056940508}',
        events=("Issue.create",),
    ),
)  # fmt: skip
