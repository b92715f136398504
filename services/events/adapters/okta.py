"""Okta event hooks."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Handshake, Place, SignatureScheme, Verification

SCHEME = SignatureScheme(
    algorithm="token", signature=Place(header="authorization"), encoding="text", delivery=Place(json="eventId")
)
ADAPTER = Adapter(
    name="okta",
    description="Okta event hooks, verified by the value of their Authorization header.",
    link="https://developer.okta.com/docs/concepts/event-hooks/",
    secrets={"secret": text("The authentication secret of the hook, whose authentication field is Authorization.")},
    handshake="GET with X-Okta-Verification-Challenge, answered as JSON, once.",
    verification=lambda _: Verification(
        schemes=(SCHEME,),
        handshakes=(
            Handshake(challenge=Place(header="x-okta-verification-challenge"), json={"verification": "{challenge}"}),
        ),
    ),
    parse=Reading(types=(Place(json="eventType"),), each="data.events"),
    event_types=(
        "user.lifecycle.create", "user.lifecycle.deactivate", "user.lifecycle.suspend", "user.session.start",
        "user.account.lock", "group.user_membership.add", "group.user_membership.remove", "application.user_membership.add",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json"},
        body='{"eventType":"com.okta.event_hook","eventId":"b5a188b9","data":{"events":[{"uuid":"f790999f",'
        '"eventType":"user.lifecycle.create","actor":{"type":"User"}},{"uuid":"f790999g","eventType":"group.user_membership.add"}]}}',
        events=("user.lifecycle.create", "group.user_membership.add"),
    ),
)  # fmt: skip
