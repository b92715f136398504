"""Forgets what nobody needs any more: gates of providers, shares of lent clients, authorizations that ended long ago."""

from __future__ import annotations

from services.oauth.authorization_store import AuthorizationStore
from services.oauth.lending import Lending
from services.oauth.token_store import TokenStore
from shared.leader import lead

# Seconds; what is left over costs a row, and nothing is decided by it.
EVERY = 600.0


class LeftoverRows:
    """Deletes rows, whoever of several replicas does it; each deletion is one statement, so that it may end anywhere."""

    def __init__(self, tokens: TokenStore, lending: Lending, requests: AuthorizationStore) -> None:
        self._tokens = tokens
        self._lending = lending
        self._requests = requests

    async def once(self) -> int:
        """Delete what is over by now; returns how many rows. Raises `Unavailable`."""
        return await self._tokens.forget_gates() + await self._lending.forget() + await self._requests.forget()

    async def sweep(self, url: str) -> None:
        """Go on for ever. Of several replicas, which share the database at `url`, one does."""
        await lead(
            self.once,
            url=url,
            service="oauth",
            lock="oauth.housekeeping",
            pause=EVERY,
            interrupted="housekeeping.interrupted",
        )
