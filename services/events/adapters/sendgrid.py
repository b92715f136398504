"""Twilio SendGrid event webhooks."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Place, SignatureScheme, Verification

_HEADER = "x-twilio-email-event-webhook"
SCHEME = SignatureScheme(
    algorithm="ecdsa-p256-sha256",
    signature=Place(header=f"{_HEADER}-signature"),
    encoding="base64",
    timestamp=Place(header=f"{_HEADER}-timestamp"),
    template="{timestamp}{body}",
    keys=("public_key",),
    key_encoding="base64",
)
ADAPTER = Adapter(
    name="sendgrid",
    description="SendGrid's signed event webhooks, verified by the verification key of the webhook.",
    link="https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event",
    settings={"public_key": text("The verification key, as the mail settings show it.", pattern="^[A-Za-z0-9+/]+={0,2}$")},
    required=("public_key",),
    verification=lambda _: Verification(schemes=(SCHEME,)),
    parse=Reading(types=(Place(json="event"),), each=""),
    event_types=(
        "processed", "deferred", "delivered", "bounce", "dropped", "open", "click", "spamreport", "unsubscribe",
        "group_unsubscribe",
        "group_resubscribe",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json"},
        body='[{"email":"hello@world.com","event":"dropped","sg_event_id":"ZHJvcC0xMDk5NDkxOS1M","timestamp":1600112492},'
        '{"email":"example@test.com","event":"open","sg_event_id":"FOTFFO0ecsBE","timestamp":1600112493}]\r\n',
        events=("dropped", "open"),
    ),
)  # fmt: skip
