"""CircleCI webhooks."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Place, SignatureScheme, Verification

SCHEME = SignatureScheme(signature=Place(header="circleci-signature", prefix="v1=", separator=","), delivery=Place(json="id"))
ADAPTER = Adapter(
    name="circleci",
    description="CircleCI webhooks, verified by circleci-signature.",
    link="https://circleci.com/docs/guides/integration/outbound-webhooks/",
    secrets={"secret": text("The webhook's secret token.")},
    verification=lambda _: Verification(schemes=(SCHEME,)),
    parse=Reading(types=(Place(json="type"), Place(header="circleci-event-type")), kept=("circleci-event-type",)),
    event_types=("job-completed", "workflow-completed", "ping"),
    sample=Sample(
        headers={"Content-Type": "application/json", "circleci-event-type": "workflow-completed"},
        body='{"id":"3888f21b-eaa7-38e3-8f3d-75a63bba8895","type":"workflow-completed","happened_at":"2021-09-01T22:49:34.317Z",'
        '"workflow":{"name":"build-test-deploy","status":"success"}}',
        events=("workflow-completed",),
    ),
)
