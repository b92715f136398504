"""Any sender that sends a key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.generic import HEADER, NAMED, delivery_of, parse
from shared.verification import Place, SignatureScheme, Verification


def verification(settings: Mapping[str, Any]) -> Verification:
    """Return the scheme: the text at the place is the secret."""
    query, prefix = settings.get("query"), settings.get("prefix") or ""
    header = None if query else (settings.get("header") or "X-API-Key").lower()
    place = Place(header=header, query=query, prefix=prefix)
    scheme = SignatureScheme(algorithm="token", signature=place, encoding="text", **delivery_of(settings))
    return Verification(schemes=(scheme,))


ADAPTER = Adapter(
    name="api-key",
    description="A sender that sends a key, in a header or in the query. The body is not signed.",
    link="https://www.rfc-editor.org/rfc/rfc6750",
    secrets={"secret": text("The key.")},
    settings={
        "header": HEADER | {"default": "X-API-Key", "description": "The header that has the key."},
        "query": text("The query parameter that has the key, in place of a header; it is not kept with the delivery."),
        "prefix": {"type": "string", "default": "", "description": "What stands before the key, as 'Bearer '."},
        **NAMED,
    },
    verification=verification,
    parse=parse,
    sample=Sample(
        headers={"Content-Type": "application/json"},
        settings={"header": "Authorization", "prefix": "Bearer ", "event_path": "kind"},
        body='{"kind":"order.paid","id":42}',
        events=("order.paid",),
    ),
)
