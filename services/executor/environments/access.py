"""The indexes as they are reached: with the secrets that their addresses name, asked of the oauth service when they are needed."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable

from services.executor.environments.indexes import Indexes
from shared.bus import Bus
from shared.encryption import CannotOpen, Keyring
from shared.errors import NotFound, Unavailable
from shared.organizations import PLATFORM
from shared.questions.oauth import GetSecret

_KEPT = 60.0
"""Seconds that a secret is kept in memory: one environment may have a hundred files, and each answer is a record in the audit."""

SecretOf = Callable[[str], Awaitable[str]]
"""Returns the secret of a name. Raises `Unavailable`."""


class IndexAccess:
    """Where packages come from, with and without the secrets of that. From one event loop."""

    def __init__(self, indexes: Indexes, secret_of: SecretOf) -> None:
        self.indexes = indexes
        """Without secrets: enough for hosts, folders and certificates."""
        self._secret_of = secret_of
        self._filled: Indexes | None = None
        self._until = 0.0
        self._asking = asyncio.Lock()

    async def filled(self) -> Indexes:
        """Return the indexes with their secrets, as they were a minute ago at most. Raises `Unavailable`."""
        names = self.indexes.secrets
        if not names:
            return self.indexes
        async with self._asking:
            if self._filled is None or time.monotonic() > self._until:
                self._filled = None
                self._filled = self.indexes.filled({name: await self._secret_of(name) for name in sorted(names)})
                self._until = time.monotonic() + _KEPT
            return self._filled


async def operators_secret(bus: Bus, keyring: Keyring, name: str) -> str:
    """Return a secret of the operator's organization; that it was given is on record before. Raises `Unavailable`."""
    nonce = secrets.token_urlsafe(16)
    try:
        given = await bus.ask(GetSecret(org=PLATFORM, name=name, nonce=nonce))
        return keyring.open(given.sealed, PLATFORM, nonce, "secret")
    except (NotFound, CannotOpen) as error:
        raise Unavailable(f"the address of a package index names the secret {name!r}: {error}") from error
