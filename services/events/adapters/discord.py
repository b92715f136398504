"""Discord: interactions, and webhook events of an app."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import UNNAMED
from services.events.adapters.webhook import ParsedEvent, Webhook
from shared.values import at, text_of
from shared.verification import Acknowledgement, Handshake, Place, SignatureScheme, Verification

SCHEME = SignatureScheme(
    algorithm="ed25519",
    signature=Place(header="x-signature-ed25519"),
    timestamp=Place(header="x-signature-timestamp"),
    template="{timestamp}{body}",
    keys=("public_key",),
    key_encoding="hex",
    delivery=Place(json="id"),
)
_TYPE = Place(json="type")
# Discord numbers interactions; these are its documentation's names of the numbers.
_INTERACTIONS = {
    "2": "APPLICATION_COMMAND",
    "3": "MESSAGE_COMPONENT",
    "4": "APPLICATION_COMMAND_AUTOCOMPLETE",
    "5": "MODAL_SUBMIT",
}


def parse(webhook: Webhook) -> list[ParsedEvent]:
    """Return one event: what a webhook event's `event.type` says, or the name of an interaction's number."""
    data = webhook.json()
    named = text_of(at(data, ("event", "type")))
    return [ParsedEvent(named or _INTERACTIONS.get(text_of(at(data, ("type",))) or "", UNNAMED), data)]


ADAPTER = Adapter(
    name="discord",
    description="Discord interactions and webhook events, verified by X-Signature-Ed25519 and the application's public key.",
    link="https://docs.discord.com/developers/events/webhook-events",
    settings={"public_key": text("The application's public key, hexadecimal.", pattern="^[0-9A-Fa-f]{64}$")},
    required=("public_key",),
    handshake='PING: a signed POST, answered {"type": 1} as an interaction, 204 as a webhook event.',
    verification=lambda _: Verification(
        schemes=(SCHEME,),
        handshakes=(
            # A webhook event has the type 1 as well, and its event beside it.
            Handshake(
                method="POST", when=((_TYPE, "1"), (Place(json="event.type", default=""), "")), signed=True, json={"type": 1}
            ),
            Handshake(method="POST", when=((_TYPE, "0"),), signed=True, text="", status=204),
        ),
        # An interaction that is answered later, by its token; a body would be read as the answer.
        acknowledgement=Acknowledgement(status=202, text=""),
    ),
    parse=parse,
    event_types=(
        "APPLICATION_AUTHORIZED", "APPLICATION_DEAUTHORIZED", "ENTITLEMENT_CREATE", "QUEST_USER_ENROLLMENT",
        *_INTERACTIONS.values(),
    ),
    sample=Sample(
        headers={"Content-Type": "application/json"},
        body='{"version":1,"application_id":"1234560123453231555","type":1,"event":{"type":"APPLICATION_AUTHORIZED",'
        '"timestamp":"2024-10-18T14:42:53.064834","data":{"integration_type":1,"scopes":["applications.commands"]}}}',
        events=("APPLICATION_AUTHORIZED",),
    ),
)  # fmt: skip
