"""Organizations that are being removed, and that were: what was said in them is not about another one of the same name."""

from __future__ import annotations

from datetime import datetime

import msgspec
from nats.aio.client import Client

from shared.health import Health
from shared.registry import RegistryView


class RemovalEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The last removal of an organization: its id, when it began, and, once it has ended, until when what was said is past."""

    organization: str
    id: str
    actor: str
    began_at: datetime
    until: datetime | None = None


class _Said(msgspec.Struct, frozen=True):
    """The part of an envelope that tells whether it is past."""

    org: str
    time: datetime


_decoder = msgspec.json.Decoder(_Said)


class RemovedOrganizations(RegistryView[RemovalEntry]):
    """The last removal of each organization that has ever been removed."""

    def __init__(self, client: Client, health: Health) -> None:
        super().__init__(client, "removals", RemovalEntry, health)

    def of(self, org: str) -> RemovalEntry | None:
        """Return the last removal of an organization, as far as is known here."""
        found = self.get(org)
        return None if found is None else found.value

    def under_way(self, org: str) -> RemovalEntry | None:
        """Return the removal of an organization while it has not ended."""
        found = self.of(org)
        return None if found is None or found.until is not None else found

    def is_gone_at(self, org: str, moment: datetime) -> bool:
        """Return whether what was said in an organization at a time is past, or its removal is under way."""
        found = self.of(org)
        return found is not None and (found.until is None or moment <= found.until)

    async def is_past(self, document: bytes) -> bool:
        """Return whether a message was said in an organization before its removal ended."""
        return await self._is(document, under_way=False)

    async def is_gone(self, document: bytes) -> bool:
        """Return whether a message is past, or of an organization whose removal is under way."""
        return await self._is(document, under_way=True)

    async def _is(self, document: bytes, *, under_way: bool) -> bool:
        if not self.is_complete:
            await self.complete()
        if not self._entries:
            return False
        try:
            said = _decoder.decode(document)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False
        found = self.of(said.org)
        if found is None:
            return False
        return under_way if found.until is None else said.time <= found.until
