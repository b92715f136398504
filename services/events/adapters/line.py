"""LINE Messaging API webhooks."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Acknowledgement, Place, SignatureScheme, Verification

SCHEME = SignatureScheme(
    signature=Place(header="x-line-signature"), encoding="base64", delivery=Place(json="events.0.webhookEventId")
)
ADAPTER = Adapter(
    name="line",
    description="LINE webhooks, verified by x-line-signature.",
    link="https://developers.line.biz/en/docs/messaging-api/receiving-messages/",
    secrets={"secret": text("The channel secret.")},
    handshake="The console's Verify button sends no events; it is answered like a webhook.",
    verification=lambda _: Verification(schemes=(SCHEME,), acknowledgement=Acknowledgement()),
    parse=Reading(types=(Place(json="type"),), each="events"),
    event_types=(
        "message", "follow", "unfollow", "join", "leave", "memberJoined", "postback", "unsend", "videoPlayComplete",
        "beacon",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json"},
        body='{"destination":"xxxxxxxxxx","events":[{"type":"message","webhookEventId":"01FZ74A0TDDPYRVKNK77XKC3ZR",'
        '"message":{"type":"text","id":"14353798921116","text":"Hello, world"}},{"type":"follow","webhookEventId":"01FZ74B"}]}',
        events=("message", "follow"),
    ),
)  # fmt: skip
