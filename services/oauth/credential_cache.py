"""Credentials that are kept in memory, unsealed, and given out only where the database says that nothing of them has changed."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from datetime import datetime

import msgspec

from services.oauth.credentials import Credential
from services.oauth.domain import Kept
from services.oauth.policy import NEAR
from services.oauth.store import KeptStore, Stamp
from services.oauth.token_store import TokenStore
from shared.envelope import rfc3339
from shared.gathering import Gathered
from shared.questions.oauth import GetToken

# Seconds that an unsealed credential stays in memory, however often it is asked for.
KEPT_FOR = 60.0
# So many, none larger than this, in characters: about 16 MB at the very most.
MOST, LARGEST = 1000, 8192
# Seconds that the database has to say whether they have changed. Who asks meanwhile waits for two answers: well below the 25 s that
# the asker waits.
WITHIN = 5.0


class ReadyCredential(msgspec.Struct, frozen=True):
    """A credential of a connection, as it is given out: `request` is how it is sent, as JSON."""

    row: Kept
    token: str
    request: str
    expires_at: str | None
    base_url: str | None
    version: int
    unreplaced: str | None = None

    def __repr__(self) -> str:
        """Show no token."""
        return f"ReadyCredential({self.row.id!r})"


class _Entry(msgspec.Struct, frozen=True):
    ready: ReadyCredential
    stamp: Stamp
    ends: datetime | None
    until: float


class CredentialCache:
    """Unsealed credentials of a minute at most. Its creator must `close` it."""

    def __init__(self, store: KeptStore, tokens: TokenStore) -> None:
        self._tokens = tokens
        self._stamps = Gathered(store.stamps, within=WITHIN)
        # Oldest first.
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Return how many are in memory."""
        return len(self._entries)

    async def close(self) -> None:
        """Forget everything; a question that is still under way is cancelled."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._entries.clear()
        await self._stamps.close()

    async def of(self, asked: GetToken) -> tuple[Stamp | None, ReadyCredential | None]:
        """Return what the asked connection is made from now, None without one, and its credential where it is here and as good.

        The first is read after the question has come: what any replica had acknowledged by then is in it. Raises `Unavailable`.
        """
        place = asked.org, asked.name
        stamp = await self._stamps.of(place)
        entry = self._entries.get(place)
        if entry is None:
            return stamp, None
        has_ended = entry.ends is not None and entry.ends - NEAR <= self._tokens.now()
        if entry.stamp != stamp or has_ended or entry.until <= asyncio.get_running_loop().time():
            del self._entries[place]
            return stamp, None
        return stamp, None if asked.rejected == entry.ready.version else entry.ready

    def keep(self, asked: GetToken, stamp: Stamp, row: Kept, given: Credential) -> ReadyCredential:
        """Return a credential that was made after `stamp` was read, and keep it if it may be given out again."""
        ready = ReadyCredential(
            row=row,
            token=given.token,
            request=msgspec.json.encode(given.sending).decode(),
            expires_at=None if given.expires_at is None else rfc3339(given.expires_at),
            base_url=given.base_url,
            version=given.version,
            unreplaced=given.unreplaced,
        )
        if given.is_settled and len(ready.request) <= LARGEST:
            place, loop = (asked.org, asked.name), asyncio.get_running_loop()
            self._entries.pop(place, None)
            if len(self._entries) >= MOST:
                self._entries.popitem(last=False)
            self._entries[place] = _Entry(ready, stamp, given.expires_at, loop.time() + KEPT_FOR)
            if self._timer is None:
                self._timer = loop.call_later(KEPT_FOR, self._forget)
        return ready

    def _forget(self) -> None:
        """Forget those whose time is over, whether somebody asks for them or not."""
        loop = asyncio.get_running_loop()
        while self._entries and (oldest := next(iter(self._entries.values()))).until <= loop.time():
            self._entries.popitem(last=False)
        self._timer = loop.call_at(oldest.until, self._forget) if self._entries else None
