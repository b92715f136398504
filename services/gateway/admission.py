"""Which door an address leads to: the registry's entry with its secrets opened, made once per version of a source."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from services.gateway.senders import TOPIC, Door, door_of
from shared.encryption import CannotOpen, Keyring
from shared.errors import Gone, MillraceError, NotFound, Unavailable
from shared.messages.declaration import KEY
from shared.questions.events import FindSource, SourceEntry, SourceFound
from shared.registry import Entry, RegistryView

# Addresses that the registry does not know are asked for; a flood of them must not become a flood of questions.
ASKING = 32
# Below the 2 s within which a sender hears of trouble.
ASK_TIMEOUT = 1.5

_log = structlog.get_logger()


class Admission:
    """Doors by source id."""

    def __init__(
        self,
        sources: RegistryView[SourceEntry],
        keyring: Keyring,
        find: Callable[[FindSource, float], Awaitable[SourceFound]],
    ) -> None:
        self._sources = sources
        self._keyring = keyring
        self._find = find
        self._asking = asyncio.Semaphore(ASKING)
        self._doors: dict[str, tuple[int, Door | MillraceError]] = {}

    async def door(self, source: str) -> Door:
        """Return the door of a source.

        Raises `NotFound` (unknown, or switched off: senders try again later, as they should), `Gone` (retired: senders stop),
        `Unavailable` (its owner does not answer, or the source cannot be verified here).
        """
        entry = self._sources.get(source)
        if entry is None:
            entry = await self._asked(source)
        known = self._doors.get(source)
        if known is None or known[0] != entry.seq:
            known = self._doors[source] = (entry.seq, self._made(entry))
        door = known[1]
        if isinstance(door, MillraceError):
            raise type(door)(door.detail, retry_after=door.retry_after)
        return door

    def entry(self, source: str) -> SourceEntry | None:
        """Return what the registry's view holds of a source now, or None."""
        entry = self._sources.get(source)
        return None if entry is None else entry.value

    async def _asked(self, source: str) -> Entry[SourceEntry]:
        if not KEY.match(source):
            raise NotFound("there is no such webhook address")
        if self._asking.locked():
            raise Unavailable("too many unknown addresses are being looked up")
        async with self._asking:
            try:
                found = await self._find(FindSource(org="global", id=source), ASK_TIMEOUT)
            except NotFound as error:
                raise NotFound("there is no such webhook address") from error
        entry = Entry(found.seq, found.entry)
        self._sources.learn(source, entry)
        return self._sources.get(source) or entry

    def _made(self, entry: Entry[SourceEntry]) -> Door | MillraceError:
        value = entry.value
        if value is None:
            return Gone("this webhook address was retired")
        if value.adapter == TOPIC:
            return NotFound("there is no such webhook address")
        if not value.enabled:
            return NotFound("this webhook address is switched off")
        try:
            return door_of(value, lambda name: self._keyring.open(value.sealed[name], value.org, value.id, name))
        except CannotOpen as error:
            _log.error("source.secret_unreadable", source=value.id, org=value.org, reason=str(error))
            return Unavailable("the secret of this source cannot be read; its operator was told", retry_after=60)
        except Unavailable as error:
            _log.error("source.unverifiable", source=value.id, org=value.org, reason=error.detail)
            return error
