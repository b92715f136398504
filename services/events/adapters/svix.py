"""Svix, and the senders that deliver by it."""

from __future__ import annotations

import msgspec

from services.events.adapters import standard_webhooks
from services.events.adapters.declared import Sample

ADAPTER = msgspec.structs.replace(
    standard_webhooks.ADAPTER,
    name="svix",
    description="Svix, by which Clerk, Resend and others deliver: svix-id, svix-timestamp and svix-signature.",
    link="https://docs.svix.com/receiving/verifying-payloads/how-manual",
    sample=Sample(
        headers={"Content-Type": "application/json", "svix-id": "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"},
        body='{"type":"user.created","data":{"id":"user_29w83sxmDNGwOuEthce5gg56FcC"}}',
        events=("user.created",),
    ),
)
