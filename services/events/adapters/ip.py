"""Any sender that is known by its address alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.events.adapters.declared import Adapter, Sample
from services.events.adapters.generic import NAMED, delivery_of, parse
from shared.verification import SignatureScheme, Verification


def verification(settings: Mapping[str, Any]) -> Verification:
    """Return that nothing is verified but the address, which every source's `networks` say."""
    return Verification(schemes=(SignatureScheme(algorithm="none", **delivery_of(settings)),))


ADAPTER = Adapter(
    name="ip",
    description="A sender that signs nothing: only addresses in `networks` may send.",
    link=None,
    settings=NAMED,
    required=("networks",),
    verification=verification,
    parse=parse,
    sample=Sample(
        headers={"Content-Type": "application/json"},
        settings={"networks": ["192.0.2.0/24"], "event_path": "kind"},
        body='{"kind":"order.paid","id":42}',
        events=("order.paid",),
    ),
)
