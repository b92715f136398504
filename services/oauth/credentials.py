"""A connection's credential as its users need it: the token, how it is sent, and where to."""

from __future__ import annotations

from datetime import datetime

import msgspec

from services.oauth.addresses import filled
from services.oauth.domain import Kept, Sending, sending_of
from services.oauth.flows import FLOWS
from services.oauth.providers import Providers, spec_of
from services.oauth.refresh import Refresher
from services.oauth.vault import Vault


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """A live credential; `version` is the number of its token, `unreplaced` why there is no newer one though it was reported.

    `is_settled`: whoever asks gets this one until something is written about the connection, or it ends.
    """

    token: str
    sending: Sending
    base_url: str | None
    expires_at: datetime | None
    version: int
    unreplaced: str | None = None
    is_settled: bool = True

    def __repr__(self) -> str:
        """Show no token."""
        return "Credential(...)"


class Credentials:
    """Live credentials, whatever they are made of."""

    def __init__(self, vault: Vault, providers: Providers, refresher: Refresher) -> None:
        self._vault = vault
        self._providers = providers
        self._refresher = refresher

    async def of(self, row: Kept, *, rejected: int | None = None) -> Credential:
        """Return the live credential of a connection. Raises as `Refresher.live`, `Unavailable` for one that does not open."""
        spec = spec_of(row)
        if spec.grant in FLOWS:
            live = await self._refresher.live(row, rejected=rejected)
            token, provider = live.tokens.access_token, live.registered.provider
            expires_at, version, unreplaced = live.state.expires_at, live.state.version, live.unreplaced
            is_settled = live.is_settled
        else:
            token, provider = self._vault.opened(row), await self._providers.described(row.org, spec)
            expires_at, version, is_settled = None, row.version, True
            unreplaced = "it is not a provider's, which could give another one" if rejected == row.version else None
        base = spec.base_url
        if base is None and provider.base_url is not None:
            base = filled(provider.base_url, spec.parameters, provider.hosts)
        return Credential(
            token=token,
            sending=sending_of(spec, provider, token),
            base_url=base,
            expires_at=expires_at,
            version=version,
            unreplaced=unreplaced,
            is_settled=is_settled and unreplaced is None,
        )
