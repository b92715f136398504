"""Any sender that authenticates with a name and a password."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.generic import NAMED, delivery_of, parse
from shared.verification import Place, SignatureScheme, Verification


def verification(settings: Mapping[str, Any]) -> Verification:
    """Return the scheme: the header's value is base64 of the secret."""
    scheme = SignatureScheme(
        algorithm="token", signature=Place(header="authorization", prefix="Basic "), encoding="base64", **delivery_of(settings)
    )
    return Verification(schemes=(scheme,))


ADAPTER = Adapter(
    name="basic",
    description="A sender that authenticates with a name and a password (RFC 7617). The body is not signed.",
    link="https://www.rfc-editor.org/rfc/rfc7617",
    secrets={"secret": text("The name and the password, with a colon between them: name:password.", pattern="^[^:]+:.+$")},
    settings=NAMED,
    verification=verification,
    parse=parse,
    sample=Sample(
        headers={"Content-Type": "application/json", "X-Event": "order.paid"},
        settings={"event_header": "X-Event"},
        body='{"id":42}',
        events=("order.paid",),
    ),
)
