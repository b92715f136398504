"""A connection's credential as its users need it: the token, how it is sent, and where to."""

from __future__ import annotations

import msgspec

from services.oauth.addresses import filled
from services.oauth.domain import Kept, Sending, sending_of
from services.oauth.flows import FLOWS
from services.oauth.providers import spec_of
from services.oauth.refresh import Refresher
from services.oauth.vault import Vault
from shared.envelope import rfc3339


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """A live credential; `version` is the number of its token."""

    token: str
    sending: Sending
    base_url: str | None
    expires_at: str | None
    version: int

    def __repr__(self) -> str:
        """Show no token."""
        return "Credential(...)"


class Credentials:
    """Live credentials, whatever they are made of."""

    def __init__(self, vault: Vault, refresher: Refresher) -> None:
        self._vault = vault
        self._refresher = refresher

    async def of(self, row: Kept, *, rejected: int | None = None) -> Credential:
        """Return the live credential of a connection. Raises as `Refresher.live`, `Unavailable` for one that does not open."""
        spec = spec_of(row)
        if spec.grant not in FLOWS:
            token = self._vault.opened(row)
            return Credential(
                token=token, sending=sending_of(spec, token), base_url=spec.base_url, expires_at=None, version=row.version
            )
        live = await self._refresher.live(row, rejected=rejected)
        state, provider, token = live.state, live.registered.provider, live.tokens.access_token
        base = spec.base_url
        if base is None and provider.base_url is not None:
            base = filled(provider.base_url, spec.parameters, provider.hosts)
        return Credential(
            token=token,
            sending=sending_of(spec, token),
            base_url=base,
            expires_at=None if state.expires_at is None else rfc3339(state.expires_at),
            version=state.version,
        )
