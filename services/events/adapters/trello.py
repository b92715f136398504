"""Trello webhooks."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Handshake, Place, SignatureScheme, Verification

SCHEME = SignatureScheme(
    algorithm="hmac-sha1",
    signature=Place(header="x-trello-webhook"),
    encoding="base64",
    template="{body}{url}",
    delivery=Place(json="action.id"),
    # One action is sent for each model that is watched.
    delivery_with=(Place(json="model.id"),),
)
ADAPTER = Adapter(
    name="trello",
    description="Trello webhooks, verified by x-trello-webhook over the body and the source's public address.",
    link="https://developer.atlassian.com/cloud/trello/guides/rest-api/webhooks/",
    secrets={"secret": text("The API secret of the Power-Up that made the webhook.")},
    handshake="HEAD, answered 200.",
    verification=lambda _: Verification(schemes=(SCHEME,), handshakes=(Handshake(method="HEAD", text=""),)),
    parse=Reading(types=(Place(json="action.type"),)),
    event_types=(
        "createCard", "updateCard", "deleteCard", "commentCard", "addMemberToCard", "addAttachmentToCard", "createList",
        "updateList",
        "updateBoard", "addMemberToBoard",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json"},
        body='{"action":{"id":"51f9424bcd6e040f3c002412","type":"updateCard","data":{"card":{"name":"Webhooks"}}},'
        '"model":{"id":"4d5ea62fd76aa1136000000c"}}',
        events=("updateCard",),
    ),
)  # fmt: skip
