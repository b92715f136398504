"""Standard Webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Algorithm, Place, SignatureScheme, Verification

SECRET = text("whsec_ and base64, as the sender shows it.", pattern="^(whsec_)?[A-Za-z0-9+/]+={0,2}$")
PUBLIC_KEY = text("whpk_ and base64, of a sender that signs with Ed25519.", pattern="^(whpk_)?[A-Za-z0-9+/]+={0,2}$")
_NAMES = ("webhook", "svix")


def scheme(name: str, algorithm: Algorithm = "hmac-sha256", **more: Any) -> SignatureScheme:
    """Return the standard's scheme under one name of its headers."""
    identity = Place(header=f"{name}-id")
    return SignatureScheme(
        algorithm=algorithm,
        signature=Place(header=f"{name}-signature", separator=" ", prefix="v1," if algorithm == "hmac-sha256" else "v1a,"),
        encoding="base64",
        template="{id}.{timestamp}.{body}",
        values={"id": identity},
        timestamp=Place(header=f"{name}-timestamp"),
        key_encoding="base64",
        delivery=identity,
        **{"key_prefix": "whsec_"} | more,
    )


def verification(settings: Mapping[str, Any]) -> Verification:
    """Return the standard's schemes, also under the names that Svix gave it before it was a standard."""
    signed = [scheme(name) for name in _NAMES]
    if settings.get("public_key"):
        signed += [scheme(name, "ed25519", keys=("public_key",), key_prefix="whpk_") for name in _NAMES]
    return Verification(schemes=tuple(signed))


READING = Reading(types=(Place(json="type"),), kept=("webhook-id", "svix-id"))
ADAPTER = Adapter(
    name="standard-webhooks",
    description="Standard Webhooks and Svix: webhook-id, webhook-timestamp and webhook-signature.",
    link="https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md",
    secrets={"secret": SECRET},
    settings={"public_key": PUBLIC_KEY},
    required=(),
    one_of=(("secret", "public_key"),),
    verification=verification,
    parse=READING,
    sample=Sample(
        headers={"webhook-id": "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W", "Content-Type": "application/json"},
        body='{"type":"contact.created","timestamp":"2022-11-03T20:26:10.344522Z","data":{"id":"1f81eb52"}}',
        events=("contact.created",),
    ),
)
