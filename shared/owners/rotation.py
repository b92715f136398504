"""Rotates keys: seals what an older key seals anew with the first, so that the older one can be removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import structlog

from shared.encryption import CannotOpen, Keyring
from shared.errors import Conflict, Invalid, Problem
from shared.leader import lead
from shared.questions.rotation import QuarantinedView, RotateKeys, RotationView

# Rows of one part; one takes some milliseconds.
AT_ONCE = 200
# The ring is read once, at the start; later rows of a replica that lacks the new key are found within this time.
EVERY = 300.0
AGAIN = 3.0

_log = structlog.get_logger()

Place = tuple[str, ...]


class StaleRow(NamedTuple):
    """A row with something that another key seals than the first one: its values by the places that they are bound to."""

    id: str
    noun: str
    org: str
    name: str
    sealed: Mapping[Place, str]


class SealedRows(Protocol):
    """Rows of one kind with something sealed. Raises `Unavailable` when their store is away."""

    async def stale(self, key: str, after: str, limit: int) -> Sequence[StaleRow]:
        """Return rows that another key than the one of this id seals, by id, those after `after`, of every organization."""

    async def count_stale(self, key: str) -> int:
        """Return how many there are."""

    async def reseal(self, row: StaleRow, sealed: Mapping[Place, str]) -> bool:
        """Replace values by the same under another key; False where one of them is another by now."""


class Rotation:
    """Seals rows anew, part by part. What is done is in the rows, so that anybody can go on at any time, and several at once."""

    def __init__(self, service: str, keyring: Keyring, kinds: Mapping[str, SealedRows]) -> None:
        self._service = service
        self._keyring = keyring
        self._kinds = kinds
        # Rows that did not open when all were looked through last; None where they have not been yet.
        self.quarantined: int | None = None

    def fact(self) -> dict[str, int | None]:
        """Return for `/readyz` how many rows do not open."""
        return {"rows": self.quarantined}

    async def rotate(self, asked: RotateKeys) -> RotationView:
        """Carry a command out. Raises `Conflict`, `Invalid` for a place that no answer has named."""
        key = self._keyring.current
        if asked.key is not None and asked.key != key:
            raise Conflict(f"a replica of {self._service} seals with the key {key}, and others with {asked.key}: give all the same")
        return await self.part(asked.after)

    async def part(self, after: str) -> RotationView:
        """Seal the rows after this place anew, as many as are done at once; a row that changes meanwhile is left alone."""
        key, kinds = self._keyring.current, list(self._kinds)
        kind, found, id_ = after.partition(":")
        if after and (kind not in kinds or not found):
            raise Invalid("no answer has named this place", errors=(Problem("after", "is no place to go on from"),))
        kind = kind or kinds[0]
        rows = await self._kinds[kind].stale(key, id_, AT_ONCE)
        resealed, quarantined = 0, []
        for row in rows:
            sealed, reason = self._resealed(row)
            if reason is not None:
                quarantined.append(QuarantinedView(noun=row.noun, org=row.org, name=row.name, reason=reason))
            if sealed:
                resealed += await self._kinds[kind].reseal(row, sealed)
        later = kinds[kinds.index(kind) + 1 :]
        following = f"{kind}:{rows[-1].id}" if len(rows) == AT_ONCE else f"{later[0]}:" if later else None
        left = sum([await one.count_stale(key) for one in self._kinds.values()])
        return RotationView(service=self._service, key=key, resealed=resealed, left=left, quarantined=quarantined, next=following)

    def _resealed(self, row: StaleRow) -> tuple[dict[Place, str], str | None]:
        """Return what opens of a row, sealed with the first key, and why the rest does not."""
        sealed: dict[Place, str] = {}
        reason: str | None = None
        for place, value in row.sealed.items():
            try:
                sealed[place] = self._keyring.resealed(value, *place)
            except CannotOpen as error:
                reason = str(error)
        return sealed, reason


async def renewing(rotation: Rotation, url: str, service: str) -> None:
    """Look through all rows for ever. Rows that do not open are left as they are: their key may come back.

    Of several replicas, which share the database at `url`, one does: two whose rings begin with different keys would undo each
    other's work.
    """
    reported: set[tuple[str, str, str]] = set()
    await lead(
        lambda: renew(rotation, reported),
        url=url,
        service=service,
        lock=f"{service}.rotation",
        pause=EVERY,
        first=0.0,
        again=AGAIN,
        interrupted="renewing.interrupted",
    )


async def renew(rotation: Rotation, reported: set[tuple[str, str, str]]) -> int:
    """Seal rows of older keys anew; returns how many. Each one that does not open is logged once, and is in `reported` then."""
    count, quarantined, after = 0, set[tuple[str, str, str]](), ""
    while True:
        part = await rotation.part(after)
        count += part.resealed
        for one in part.quarantined:
            quarantined.add(known := (one.noun, one.org, one.name))
            if known not in reported:
                reported.add(known)
                _log.error("sealed.quarantined", noun=one.noun, org=one.org, name=one.name, reason=one.reason)
        if part.next is None:
            break
        after = part.next
    rotation.quarantined = len(quarantined)
    if count:
        _log.info("renewing.sealed_anew", rows=count)
    return count
