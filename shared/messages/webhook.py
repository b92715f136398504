"""Messages of the gateway about webhooks."""

from __future__ import annotations

import msgspec

from shared.messages.declaration import Message, message


@message("webhook.received", key="source", by="gateway", suffix="lane")
class WebhookReceived(Message, frozen=True, kw_only=True):
    """gateway has verified a request and answers 202 once this is on disk.

    The body is exact: `body_base64`, or above 256 KiB `body_ref`, the SHA-256 under which the bucket `bodies` holds it.
    Header names are lower case; credentials and signatures are redacted. `delivery` is the id in the answer. `lane` is the bulk
    lane in which it waits (`shared.streams.BULK_LANES`), None for the prompt one. `checked` says what was verified, for people.
    """

    source: str
    delivery: str
    adapter: str
    received_at: str
    method: str
    query: list[tuple[str, str]]
    headers: list[tuple[str, str]]
    body_base64: str | None = None
    body_ref: str | None = None
    body_size: int = 0
    sender_delivery: str | None = None
    remote: str | None = None
    lane: str | None = None
    checked: list[str] = msgspec.field(default_factory=list)


@message("webhook.refused", key="source", by="gateway")
class WebhookRefused(Message, frozen=True, kw_only=True):
    """gateway has answered 429 or 503 to `count` requests of about a second, the last from `remote`; nothing of them is kept.

    `reason` is `rate`: more than the source's settings allow; `room`: more bodies on their way at once than there is room for; or
    `backlog`: more that wait to be handled than may.
    """

    source: str
    adapter: str
    reason: str
    count: int
    remote: str | None = None
