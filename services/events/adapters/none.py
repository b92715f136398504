"""Any sender, unverified."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.events.adapters.declared import Adapter, Sample
from services.events.adapters.generic import NAMED, delivery_of, parse
from shared.verification import SignatureScheme, Verification


def verification(settings: Mapping[str, Any]) -> Verification:
    """Return that nothing is verified: who names this adapter asks for it."""
    return Verification(schemes=(SignatureScheme(algorithm="none", **delivery_of(settings)),))


ADAPTER = Adapter(
    name="none",
    description="Unverified: anybody who knows the address may send anything.",
    link=None,
    settings=NAMED,
    required=(),
    verification=verification,
    parse=parse,
    sample=Sample(headers={"Content-Type": "text/plain"}, body="hello", events=("webhook",)),
)
