"""Svix, and the senders that deliver by it."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample
from services.events.adapters.standard_webhooks import PUBLIC_KEY, READING, SECRET, verification

ADAPTER = Adapter(
    name="svix",
    description="Svix, by which Clerk, Resend and others deliver: svix-id, svix-timestamp and svix-signature.",
    link="https://docs.svix.com/receiving/verifying-payloads/how-manual",
    secrets={"secret": SECRET},
    settings={"public_key": PUBLIC_KEY},
    required=(),
    one_of=(("secret", "public_key"),),
    verification=verification,
    parse=READING,
    sample=Sample(
        headers={"Content-Type": "application/json", "svix-id": "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"},
        body='{"type":"user.created","data":{"id":"user_29w83sxmDNGwOuEthce5gg56FcC"}}',
        events=("user.created",),
    ),
)
