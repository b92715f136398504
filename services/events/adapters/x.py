"""X (Twitter): the Account Activity API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import UNNAMED, bounded
from services.events.adapters.webhook import ParsedEvent, Webhook
from shared.verification import Acknowledgement, Handshake, Place, SignatureScheme, Verification

SCHEME = SignatureScheme(signature=Place(header="x-twitter-webhooks-signature", prefix="sha256="), encoding="base64")
CRC = Handshake(
    challenge=Place(query="crc_token"), digest="hmac-sha256", encoding="base64", json={"response_token": "sha256={digest}"}
)


def parse(webhook: Webhook) -> list[ParsedEvent]:
    """Return an event for each item of each list of events: `tweet_create_events`. Its data has no other item. Raises `Invalid`."""
    data = webhook.json()
    return bounded(_events(data)) or [ParsedEvent(UNNAMED, data)]


def _events(data: Any) -> Iterator[ParsedEvent]:
    if not isinstance(data, dict):
        return
    lists = {name: value for name, value in data.items() if name.endswith("_events") and isinstance(value, list)}
    rest = {name: value for name, value in data.items() if name not in lists}
    for name, items in lists.items():
        for item in items:
            yield ParsedEvent(name, {**rest, name: [item]})


ADAPTER = Adapter(
    name="x",
    description="X's account activity, verified by x-twitter-webhooks-signature.",
    link="https://docs.x.com/x-api/webhooks/introduction",
    secrets={"secret": text("The app's API key secret (consumer secret).")},
    handshake="GET with crc_token, answered with its HMAC; X asks again every hour.",
    verification=lambda _: Verification(schemes=(SCHEME,), handshakes=(CRC,), acknowledgement=Acknowledgement()),
    parse=parse,
    event_types=(
        "tweet_create_events", "favorite_events", "follow_events", "block_events", "mute_events", "direct_message_events",
        "tweet_delete_events",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json"},
        body='{"for_user_id":"2244994945","tweet_create_events":[{"id_str":"1","text":"Hi"},{"id_str":"2","text":"again"}]}',
        events=("tweet_create_events", "tweet_create_events"),
    ),
)  # fmt: skip
