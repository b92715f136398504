"""Rotates keys: seals the rows of an older key anew with the first, so that the older one can be removed."""

from __future__ import annotations

from typing import NamedTuple

import structlog

from services.oauth.domain import place_of, token_place
from services.oauth.store import KeptStore
from services.oauth.token_store import TokenStore
from services.oauth.vault import Vault
from shared.encryption import CannotOpen
from shared.errors import Conflict, Invalid, Problem
from shared.leader import lead
from shared.questions.oauth import QuarantinedView, RotateKeys, RotationView

# Rows of one part; one takes some milliseconds.
AT_ONCE = 200
# The ring is read once, at the start; later rows of a replica that lacks the new key are found within this time.
EVERY = 300.0
AGAIN = 3.0
# Where a part begins: among the rows of resources, or of tokens.
_VAULT, _TOKEN = "vault:", "token:"

_log = structlog.get_logger()


class _Stale(NamedTuple):
    """A row that another key seals than the first one, whatever table it is in."""

    id: str
    noun: str
    org: str
    name: str
    sealed: str
    place: tuple[str, ...]


class Rotation:
    """Seals rows anew, part by part. What is done is in the rows, so that anybody can go on at any time, and several at once."""

    def __init__(self, store: KeptStore, tokens: TokenStore, vault: Vault) -> None:
        self._store = store
        self._tokens = tokens
        self._vault = vault
        # Rows that did not open when all were looked through last; None where they have not been yet.
        self.quarantined: int | None = None

    async def rotate(self, asked: RotateKeys) -> RotationView:
        """Carry a command out. Raises `Conflict`, `Invalid` for a place that no answer has named."""
        key = self._vault.key
        if asked.key is not None and asked.key != key:
            raise Conflict(f"this replica seals with the key {key}, and another one with {asked.key}: give all the same first key")
        if asked.after and not asked.after.startswith((_VAULT, _TOKEN)):
            raise Invalid("no answer has named this place", errors=(Problem("after", "is no place to go on from"),))
        return await self.part(asked.after)

    async def part(self, after: str) -> RotationView:
        """Seal the rows after this place anew, as many as are done at once; a row that changes meanwhile is left alone."""
        key = self._vault.key
        rows, following = await self._stale(key, after)
        resealed, quarantined = 0, []
        for row in rows:
            try:
                sealed = self._vault.resealed(row.sealed, row.place)
            except CannotOpen as error:
                quarantined.append(QuarantinedView(noun=row.noun, org=row.org, name=row.name, reason=str(error)))
                continue
            change = self._tokens.reseal if row.noun == "token" else self._store.reseal
            resealed += await change(row.id, row.sealed, sealed)
        left = await self._store.count_stale(key) + await self._tokens.count_stale(key)
        return RotationView(key=key, resealed=resealed, left=left, quarantined=quarantined, next=following)

    async def _stale(self, key: str, after: str) -> tuple[list[_Stale], str | None]:
        """Return the rows of one part, and where the next one begins."""
        if not after.startswith(_TOKEN):
            found = await self._store.stale(key, after.removeprefix(_VAULT), AT_ONCE)
            rows = [
                _Stale(one.id, one.noun, one.org, one.name, one.sealed, place_of(one.noun, one.org, one.id, one.name))
                for one in found
            ]
            return rows, _VAULT + rows[-1].id if len(rows) == AT_ONCE else _TOKEN
        states = await self._tokens.stale(key, after.removeprefix(_TOKEN), AT_ONCE)
        rows = [_Stale(id_, "token", org, name, sealed, token_place(org, id_)) for id_, org, name, sealed in states]
        return rows, _TOKEN + rows[-1].id if len(rows) == AT_ONCE else None


async def renewing(rotation: Rotation, url: str) -> None:
    """Look through all rows for ever. Rows that do not open are left as they are: their key may come back.

    Of several replicas, which share the database at `url`, one does: two whose rings begin with different keys would undo each
    other's work.
    """
    reported: set[tuple[str, str, str]] = set()
    await lead(
        lambda: renew(rotation, reported),
        url=url,
        service="oauth",
        lock="oauth.rotation",
        pause=EVERY,
        first=0.0,
        again=AGAIN,
        interrupted="renewing.interrupted",
    )


async def renew(rotation: Rotation, reported: set[tuple[str, str, str]]) -> int:
    """Seal rows of older keys anew; returns how many. Each one that does not open is logged once, and is in `reported` then."""
    count, quarantined, after = 0, 0, ""
    while True:
        part = await rotation.part(after)
        count += part.resealed
        quarantined += len(part.quarantined)
        for one in part.quarantined:
            if (known := (one.noun, one.org, one.name)) not in reported:
                reported.add(known)
                _log.error("vault.quarantined", noun=one.noun, org=one.org, name=one.name, reason=one.reason)
        if part.next is None:
            break
        after = part.next
    rotation.quarantined = quarantined
    if count:
        _log.info("renewing.sealed_anew", rows=count)
    return count
