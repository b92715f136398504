"""Tokens as they are sealed in a connection's row, and what a new one becomes there."""

from __future__ import annotations

import random
from datetime import datetime

import msgspec

from services.oauth.answers import Granted
from services.oauth.domain import Kept, token_place
from services.oauth.policy import TokenState, times_of
from services.oauth.providers import Registered
from services.oauth.token_store import Renewed
from shared.encryption import CannotOpen, Keyring
from shared.errors import Unavailable

_chance = random.SystemRandom().uniform


class Tokens(msgspec.Struct, frozen=True):
    """What is sealed in a token's row."""

    access_token: str
    refresh_token: str | None
    token_type: str = "Bearer"

    def __repr__(self) -> str:
        """Show no token."""
        return "Tokens(...)"


class SealedTokens:
    """Seals and opens tokens, each for its connection."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def opened(self, state: TokenState) -> Tokens:
        """Return a row's tokens. Raises `Unavailable` where they do not open."""
        try:
            opened = self._keyring.open(state.sealed or "", *token_place(state.org, state.connection))
        except CannotOpen as error:
            raise Unavailable(f"connection {state.connection}: {error}", retry_after=60) from error
        return msgspec.json.decode(opened, type=Tokens)

    def renewed(
        self,
        row: Kept,
        registered: Registered,
        granted: Granted,
        now: datetime,
        refresh_token: str | None = None,
        *,
        renews: bool = False,
        forced: bool = False,
    ) -> Renewed:
        """Return new tokens as they are stored; without a new token that refreshes them the one before stays."""
        kept = granted.refresh_token or refresh_token
        sealed = msgspec.json.encode(Tokens(granted.access_token, kept, granted.token_type)).decode()
        times = times_of(granted, now, _chance, renews=renews or kept is not None)
        return Renewed(
            sealed=self._keyring.seal(sealed, *token_place(row.org, row.id)),
            scope=granted.scope,
            expires_at=times.expires_at,
            refresh_expires_at=times.refresh_expires_at,
            refresh_at=times.refresh_at,
            is_forced=forced,
            origin=registered.origin,
            not_before=times.not_before,
        )
