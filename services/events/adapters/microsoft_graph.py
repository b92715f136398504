"""Microsoft Graph change notifications."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from services.events.adapters.registering import Given, Registering, SenderResource
from shared.verification import Handshake, Place, SignatureScheme, Verification

SCHEME = SignatureScheme(algorithm="token", signature=Place(json="clientState"), encoding="text", each="value")
# Seconds. Graph sets less than 45 minutes to 45, and takes up to 30 days, by resource: most take at least 4,230 minutes.
_LEAST, _USUAL, _MOST = 2_700, 252_000, 2_592_000


def _resource(given: Mapping[str, Any]) -> SenderResource:
    created = {
        "changeType": ",".join(given["changes"]),
        "resource": given["resource"],
        "notificationUrl": Given.CALLBACK,
        "lifecycleNotificationUrl": Given.CALLBACK,
        "clientState": Given.SECRET,
        "expirationDateTime": Given.EXPIRES,
    }
    # That reauthorizes it, too.
    return SenderResource(collection="subscriptions", created=created, renewed={"expirationDateTime": Given.EXPIRES})


REGISTERING = Registering(
    api="https://graph.microsoft.com/v1.0",
    settings={
        "resource": text("What is watched: `users/{id}/messages`, `teams/{id}/channels/{id}/messages`.", maxLength=1000),
        "changes": {
            "type": "array",
            "description": "Which changes are notified.",
            "items": {"enum": ["created", "updated", "deleted"]},
            "minItems": 1,
            "uniqueItems": True,
        },
        "lifetime": {
            "type": "integer",
            "description": f"Seconds until a subscription ends unless it is renewed (default: {_USUAL}); bounded by resource.",
            "minimum": _LEAST,
            "maximum": _MOST,
        },
    },
    required=("resource", "changes"),
    resource=_resource,
    items="value",
    next="@odata.nextLink",
    callback="notificationUrl",
    expires="expirationDateTime",
    lifetime=_USUAL,
    notices={"reauthorizationRequired": "renew", "subscriptionRemoved": "create", "missed": "missed"},
    noticed="subscriptionId",
    advice={
        400: "check resource, changes and lifetime, and that Graph reaches MILLRACE_PUBLIC_URL from the internet",
        403: "give the application the permission that Graph asks for to read the resource",
        404: "check the resource",
        409: "another subscription of the same application watches the same resource for the same changes: remove that one",
    },
)
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
    required=(),
    one_of=(("secret", "registration"),),
    registering=REGISTERING,
)
