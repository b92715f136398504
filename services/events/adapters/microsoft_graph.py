"""Microsoft Graph change notifications."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.graph_content import certified, content_of
from services.events.adapters.reading import Reading
from services.events.adapters.registering import Given, Registering, SenderResource
from services.events.adapters.webhook import ParsedEvent, Webhook
from shared.errors import Invalid
from shared.verification import Handshake, Place, SignatureScheme, Verification

SCHEME = SignatureScheme(algorithm="token", signature=Place(json="clientState"), encoding="text", each="value")
# Seconds. Graph sets less than 45 minutes to 45, and takes up to 30 days, by resource: most take at least 4,230 minutes.
_LEAST, _USUAL, _MOST = 2_700, 252_000, 2_592_000


def _resource(given: Mapping[str, Any]) -> SenderResource:
    created: dict[str, Any] = {
        "changeType": ",".join(given["changes"]),
        "resource": given["resource"],
        "notificationUrl": Given.CALLBACK,
        "lifecycleNotificationUrl": Given.CALLBACK,
        "clientState": Given.SECRET,
        "expirationDateTime": Given.EXPIRES,
    }
    if given.get("resource_data"):
        created["includeResourceData"] = True
        created["encryptionCertificate"] = Given.CERTIFICATE
        created["encryptionCertificateId"] = Given.CERTIFICATE_ID
    # That reauthorizes it, too.
    return SenderResource(collection="subscriptions", created=created, renewed={"expirationDateTime": Given.EXPIRES})


def parse(webhook: Webhook) -> list[ParsedEvent]:
    """Return an event of each item; `encryptedContent` that the source has a key for becomes `content`. Raises `Invalid`."""
    events = _READING(webhook)
    keys = [certified(webhook.secrets[name]).key for name in OPENS if name in webhook.secrets]
    return [_decrypted(number, event, keys) for number, event in enumerate(events)] if keys else events


def _decrypted(number: int, event: ParsedEvent, keys: Sequence[RSAPrivateKey]) -> ParsedEvent:
    if not isinstance(event.data, dict) or event.data.get("encryptedContent") is None:
        return event
    rest = {name: value for name, value in event.data.items() if name != "encryptedContent"}
    try:
        return msgspec.structs.replace(event, data=rest | {"content": content_of(event.data["encryptedContent"], keys)})
    except ValueError as error:
        raise Invalid(f"value.{number}.encryptedContent cannot be read: {error}") from error


_READING = Reading(types=(Place(json="lifecycleEvent"), Place(json="changeType")), each="value")
OPENS = {"certificate": certified, "previous_certificate": certified}
_PEM = {"maxLength": 32_768}
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
        "resource_data": {
            "type": "boolean",
            "description": "Whether notifications hold what has changed, encrypted for `certificate`; of some resources they can.",
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
        400: "check resource, changes, resource_data and lifetime, and that Graph reaches MILLRACE_PUBLIC_URL from the internet",
        403: "give the application the permission that Graph asks for to read the resource",
        404: "check the resource",
        409: "another subscription of the same application watches the same resource for the same changes: remove that one",
    },
)
ADAPTER = Adapter(
    name="microsoft-graph",
    description="Microsoft Graph change and lifecycle notifications; each has to hold the subscription's clientState.",
    link="https://learn.microsoft.com/en-us/graph/change-notifications-delivery-webhooks",
    secrets={
        "secret": text("The clientState of the subscriptions, up to 128 characters.", maxLength=128),
        "certificate": text("For rich notifications: an RSA private key as PEM without a password, then its certificate.", **_PEM),
        "previous_certificate": text("The one before, by which notifications are read as well. null removes it.", **_PEM),
    },
    handshake="POST with ?validationToken: it is answered as text, within the 10 s that Graph waits.",
    verification=lambda _: Verification(
        schemes=(SCHEME,),
        handshakes=(Handshake(method="POST", challenge=Place(query="validationToken")),),
        # It is sent with the validation, too.
        content_types=("application/json", "text/plain"),
    ),
    parse=parse,
    opens=OPENS,
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
