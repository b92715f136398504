"""Events that runs and users of the API emit: no webhook address, nothing to verify."""

from __future__ import annotations

from services.events.adapters.declared import Adapter
from shared.verification import Verification

ADAPTER = Adapter(
    name="topic",
    description="Events that workflows emit, or the API: POST /api/v1/sources/{name}/events. It has no webhook address.",
    link=None,
    verification=lambda _: Verification(methods=()),
    parse=None,
    required=(),
)
