"""HubSpot webhooks, and requests of its workflows and cards."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Place, SignatureScheme, Verification

_HEADER = "x-hubspot-signature"


def _digest(version: str, template: str) -> SignatureScheme:
    return SignatureScheme(
        algorithm="sha256",
        signature=Place(header=_HEADER),
        template=template,
        when=((Place(header=f"{_HEADER}-version"), version),),
    )


V3 = SignatureScheme(
    signature=Place(header=f"{_HEADER}-v3"),
    encoding="base64",
    timestamp=Place(header="x-hubspot-request-timestamp"),
    timestamp_unit="ms",
    template="{method}{url}{body}{timestamp}",
)
ADAPTER = Adapter(
    name="hubspot",
    description="HubSpot webhooks, verified by X-HubSpot-Signature-v3, or by X-HubSpot-Signature of version v1 or v2.",
    link="https://developers.hubspot.com/docs/apps/legacy-apps/authentication/validating-requests",
    secrets={"secret": text("The app's client secret.")},
    verification=lambda _: Verification(
        schemes=(V3, _digest("v1", "{secret}{body}"), _digest("v2", "{secret}{method}{url}{body}")), methods=("POST", "GET")
    ),
    parse=Reading(types=(Place(json="subscriptionType"), Place(json="eventType")), each=""),
    entity="event.data.portalId",
    event_types=(
        "contact.creation", "contact.propertyChange", "contact.deletion", "company.creation", "deal.creation",
        "deal.propertyChange",
        "ticket.creation", "conversation.newMessage", "object.creation", "object.propertyChange",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json"},
        body='[{"eventId":1,"subscriptionType":"contact.creation","portalId":62515,"objectId":123,"attemptNumber":0},'
        '{"eventId":2,"subscriptionType":"deal.propertyChange","portalId":62515,"objectId":7,"propertyName":"amount"}]',
        events=("contact.creation", "deal.propertyChange"),
    ),
)  # fmt: skip
