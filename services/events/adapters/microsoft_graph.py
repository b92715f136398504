"""Microsoft Graph change notifications."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Handshake, Place, SignatureScheme, Verification

SCHEME = SignatureScheme(algorithm="token", signature=Place(json="clientState"), encoding="text", each="value")
ADAPTER = Adapter(
    name="microsoft-graph",
    description="Microsoft Graph change and lifecycle notifications; each has to hold the subscription's clientState.",
    link="https://learn.microsoft.com/en-us/graph/change-notifications-delivery-webhooks",
    secrets={"secret": text("The clientState of the subscriptions, up to 128 characters.", maxLength=128)},
    handshake="POST with ?validationToken: it is answered as text, within the 10 s that Graph waits.",
    verification=lambda _: Verification(
        schemes=(SCHEME,),
        handshakes=(Handshake(method="POST", challenge=Place(query="validationToken")),),
        # It is sent with the validation, too.
        content_types=("application/json", "text/plain"),
    ),
    parse=Reading(types=(Place(json="lifecycleEvent"), Place(json="changeType")), each="value"),
    entity="event.data.tenantId",
    event_types=("created", "updated", "deleted", "reauthorizationRequired", "subscriptionRemoved", "missed"),
    sample=Sample(
        headers={"Content-Type": "application/json"},
        body='{"value":[{"subscriptionId":"7f105c7d","clientState":"secretClientValue","changeType":"created",'
        '"resource":"users/a/messages/b","resourceData":{"id":"b"}},{"subscriptionId":"7f105c7d","clientState":"secretClientValue",'
        '"lifecycleEvent":"missed"}]}',
        events=("created", "missed"),
    ),
)
