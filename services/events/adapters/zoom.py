"""Zoom webhooks."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Acknowledgement, Handshake, Place, SignatureScheme, Verification

SCHEME = SignatureScheme(
    signature=Place(header="x-zm-signature", prefix="v0="),
    timestamp=Place(header="x-zm-request-timestamp"),
    template="v0:{timestamp}:{body}",
    # Its x-zm-trackingid is of what led to the webhook, which may lead to several.
)
ADAPTER = Adapter(
    name="zoom",
    description="Zoom webhooks, verified by x-zm-signature.",
    link="https://developers.zoom.us/docs/api/webhooks/",
    secrets={"secret": text("The app's secret token.")},
    handshake="endpoint.url_validation: a signed POST, answered with the token and its HMAC, within the 3 s that Zoom waits.",
    verification=lambda _: Verification(
        schemes=(SCHEME,),
        handshakes=(
            Handshake(
                method="POST",
                when=((Place(json="event"), "endpoint.url_validation"),),
                challenge=Place(json="payload.plainToken"),
                signed=True,
                digest="hmac-sha256",
                json={"plainToken": "{challenge}", "encryptedToken": "{digest}"},
            ),
        ),
        acknowledgement=Acknowledgement(),
    ),
    parse=Reading(types=(Place(json="event"),), kept=("x-zm-trackingid",)),
    entity="event.data.payload.account_id",
    event_types=(
        "meeting.started", "meeting.ended", "meeting.participant_joined", "meeting.participant_left", "recording.completed",
        "webinar.started", "user.created", "user.updated",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json", "x-zm-trackingid": "v=2.0;clid=us02"},
        body='{"event":"meeting.started","event_ts":1626230691572,"payload":{"account_id":"AAAA","object":{"id":"1234567890"}}}',
        events=("meeting.started",),
    ),
)  # fmt: skip
