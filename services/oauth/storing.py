"""Stores new tokens however long that takes: a token whose predecessor is dead may be the only copy of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from services.oauth.policy import TokenState
from services.oauth.spool import Spool, Unstored
from services.oauth.token_store import Publication, TokenStore
from shared.envelope import rfc3339
from shared.errors import Unavailable

# Seconds between two tries.
STORE_AGAIN, LONGEST_STORE_AGAIN = 0.2, 5.0

_log = structlog.get_logger()


class TokenWriter:
    """Stores tokens in the database; until that takes them they are in memory, and in the spool."""

    def __init__(self, tokens: TokenStore, spool: Spool) -> None:
        self._tokens = tokens
        self._spool = spool

    def left(self) -> Sequence[Unstored]:
        """Return those that an earlier process could not store."""
        return self._spool.left()

    async def store(self, one: Unstored, *, is_late: bool = False) -> TokenState | None:
        """Return the row with the new tokens; None where a later attempt has stored others, or the connection is gone."""
        before, pause = one.claimed.before, 0.0
        published = _refreshed(one)
        while True:
            try:
                state = await self._tokens.renew(one.claimed, one.renewed, published, late=is_late)
            except Unavailable as error:
                if not pause:
                    _log.error("connection.not_stored", connection=before.connection, reason=error.detail)
                    self._keep(one)
                is_late, pause = True, min(max(2 * pause, STORE_AGAIN), LONGEST_STORE_AGAIN)
                await asyncio.sleep(pause)
            else:
                self._spool.forget(one)
                return state

    def _keep(self, one: Unstored) -> None:
        """Have a token on disk; where that cannot be it is in memory only, and storing it is tried again all the same."""
        try:
            self._spool.keep(one)
        except OSError as error:
            _log.error("connection.not_spooled", connection=one.claimed.before.connection, reason=str(error))


def _refreshed(one: Unstored) -> Publication:
    """Return the message of a new token."""
    before, renewed = one.claimed.before, one.renewed
    data = {
        "connection": before.connection,
        "name": one.name,
        "token_version": before.version + 1,
        "expires_at": None if renewed.expires_at is None else rfc3339(renewed.expires_at),
        "scope": renewed.scope,
        "provider": one.provider or before.provider,
    }
    return Publication(type="connection.refreshed", data=data)
