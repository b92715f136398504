"""Keeps tokens that the database could not take, sealed, in files: a new token whose predecessor is dead is the only copy."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from services.oauth.domain import token_place
from services.oauth.token_store import Claimed, Renewed
from shared.encryption import CannotOpen, Keyring, is_sealed_by
from shared.owners.rotation import Place, StaleRow


class Unstored(msgspec.Struct, frozen=True):
    """A token of the connection `name` that is to be stored, sealed as in its row, with the claim that it was got by."""

    name: str
    claimed: Claimed
    renewed: Renewed
    provider: str = ""


class Spool:
    """A folder of them; without a folder nothing is kept beyond the process."""

    def __init__(self, folder: Path | None, keyring: Keyring) -> None:
        self._folder = folder
        self._keyring = keyring

    def keep(self, one: Unstored) -> None:
        """Have one on disk when this returns."""
        if self._folder is None:
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(one)
        part = path.with_suffix(".part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(one))
            file.flush()
            os.fsync(descriptor)
        part.rename(path)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def forget(self, one: Unstored) -> None:
        """Remove one that is stored, or that nobody needs any more."""
        if self._folder is not None:
            self._path(one).unlink(missing_ok=True)

    def forget_all(self, org: str) -> None:
        """Remove those of an organization, which is removed."""
        for one in self._kept():
            if one.claimed.before.org == org:
                self.forget(one)

    async def stale(self, key: str, after: str, limit: int) -> list[StaleRow]:
        """Return those that another key than the one of this id seals, by the names of their files, those after `after`."""
        found = [(self._path(one).name, one) for one in self._kept() if not is_sealed_by(one.renewed.sealed, key)]
        return [
            StaleRow(name, "unstored token", one.claimed.before.org, one.name, {_place_of(one): one.renewed.sealed})
            for name, one in sorted(found)[:limit]
            if name > after
        ]

    async def count_stale(self, key: str) -> int:
        """Return how many there are."""
        return len(await self.stale(key, "", sys.maxsize))

    async def reseal(self, row: StaleRow, sealed: Mapping[Place, str]) -> bool:
        """Replace a sealed token by the same under another key; False where it has been stored by now."""
        for one in self._kept():
            if self._path(one).name == row.id and (value := sealed.get(_place_of(one))) is not None:
                # One that is stored just now is stored again at the next start, which changes nothing.
                self.keep(_sealed(one, value))
                return True
        return False

    def left(self) -> list[Unstored]:
        """Return those that an earlier process has kept, sealed with the first key where they open."""
        return [self._resealed(one) for one in self._kept()]

    def _resealed(self, one: Unstored) -> Unstored:
        try:
            return _sealed(one, self._keyring.resealed(one.renewed.sealed, *_place_of(one)))
        except CannotOpen:
            # Its key may come back.
            return one

    def _kept(self) -> list[Unstored]:
        found: list[Unstored] = []
        for path in sorted(self._folder.glob("*.json")) if self._folder is not None and self._folder.is_dir() else ():
            # What was cut short by the machine's end was never whole, and another file is not ours.
            with contextlib.suppress(msgspec.DecodeError, msgspec.ValidationError):
                found.append(msgspec.json.decode(path.read_bytes(), type=Unstored))
        return found

    def _path(self, one: Unstored) -> Path:
        assert self._folder is not None  # noqa: S101 - both callers have looked
        return self._folder / f"{one.claimed.before.connection}-{one.claimed.fence}.json"


def _sealed(one: Unstored, sealed: str) -> Unstored:
    return msgspec.structs.replace(one, renewed=msgspec.structs.replace(one.renewed, sealed=sealed))


def _place_of(one: Unstored) -> Place:
    return token_place(one.claimed.before.org, one.claimed.before.connection)
