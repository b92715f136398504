"""Twilio: messages, calls, and event streams."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import UNNAMED, Reading
from services.events.adapters.webhook import FORM, ParsedEvent, Webhook
from shared.verification import Acknowledgement, Place, SignatureScheme, Verification

_DIGEST = "bodySHA256"
# Twilio names statuses, and no types; the first that a form has tells what it is about.
_STATUSES = {
    "MessageStatus": "message",
    "SmsStatus": "message",
    "RecordingStatus": "recording",
    "TranscriptionStatus": "transcription",
    "StatusCallbackEvent": "conference",
    "CallStatus": "call",
}
_STREAM = Reading(types=(Place(json="type"),), each="")


def _schemes(url: str) -> tuple[SignatureScheme, SignatureScheme]:
    signed = {
        "algorithm": "hmac-sha1",
        "signature": Place(header="x-twilio-signature"),
        "encoding": "base64",
        "delivery": Place(header="i-twilio-idempotency-token"),
    }
    return (
        SignatureScheme(template=url + "{form}", when=((Place(query=_DIGEST, default=""), ""),), **signed),  # type: ignore[arg-type]
        SignatureScheme(template=url, body_digest=Place(query=_DIGEST), **signed),  # type: ignore[arg-type]
    )


def parse(webhook: Webhook) -> list[ParsedEvent]:
    """Return one event of a form: `message.delivered`, `call.completed`; one for each of an event stream. Raises `Invalid`."""
    if webhook.media_type != FORM:
        return _STREAM(webhook)
    fields = webhook.form()
    status = next(((kind, fields[name]) for name, kind in _STATUSES.items() if isinstance(fields.get(name), str)), None)
    return [ParsedEvent(UNNAMED if status is None else f"{status[0]}.{status[1]}", fields)]


ADAPTER = Adapter(
    name="twilio",
    description="Twilio webhooks, verified by X-Twilio-Signature over the source's public address and the form or its digest.",
    link="https://www.twilio.com/docs/usage/webhooks/webhooks-security",
    secrets={"secret": text("The account's auth token.")},
    # Twilio signs the address with its port or without.
    verification=lambda _: Verification(
        schemes=(*_schemes("{url}"), *_schemes("{url_other_port}")),
        # What is answered to a message or a call is TwiML.
        acknowledgement=Acknowledgement(text="<Response/>", content_type="text/xml"),
    ),
    parse=parse,
    entity="event.data.AccountSid",
    event_types=(
        "message.received", "message.sent", "message.delivered", "message.failed", "call.ringing", "call.completed",
        "call.no-answer",
        "recording.completed", "com.twilio.messaging.message.delivered",
    ),
    sample=Sample(
        headers={"Content-Type": FORM},
        body="MessageSid=SM1234567890ABCDE&From=%2B14158675309&To=%2B18005551212&Body=Hello&NumMedia=0&SmsStatus=received",
        events=("message.received",),
    ),
)  # fmt: skip
