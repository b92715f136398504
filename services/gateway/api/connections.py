"""/api/v1/known-providers: the OAuth providers that need no addresses of their own."""

from __future__ import annotations

import msgspec

from services.gateway.api.endpoint import Call, Endpoint, endpoint
from shared.questions.oauth import KnownProviderView, ListKnownProviders


class KnownProviderList(msgspec.Struct, frozen=True):
    """All known providers."""

    items: list[KnownProviderView]
    next_cursor: None = None


@endpoint("GET", "/api/v1/known-providers", role="viewer")
async def list_known_providers(call: Call[None, None]) -> KnownProviderList:
    """List the providers whose addresses are known, by name, with the documents that they are from."""
    return KnownProviderList(await call.ask(ListKnownProviders(org=call.caller.org)))


ENDPOINTS: tuple[Endpoint, ...] = (list_known_providers,)
