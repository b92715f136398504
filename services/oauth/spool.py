"""Keeps tokens that the database could not take, sealed, in files: a new token whose predecessor is dead is the only copy."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from services.oauth.token_store import Claimed, Renewed


class Unstored(msgspec.Struct, frozen=True):
    """A token of the connection `name` that is to be stored, sealed as in its row, with the claim that it was got by."""

    name: str
    claimed: Claimed
    renewed: Renewed
    provider: str = ""


class Spool:
    """A folder of them; without a folder nothing is kept beyond the process."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

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

    def left(self) -> list[Unstored]:
        """Return those that an earlier process has kept."""
        found: list[Unstored] = []
        for path in sorted(self._folder.glob("*.json")) if self._folder is not None and self._folder.is_dir() else ():
            # What was cut short by the machine's end was never whole, and another file is not ours.
            with contextlib.suppress(msgspec.DecodeError, msgspec.ValidationError):
                found.append(msgspec.json.decode(path.read_bytes(), type=Unstored))
        return found

    def _path(self, one: Unstored) -> Path:
        assert self._folder is not None  # noqa: S101 - both callers have looked
        return self._folder / f"{one.claimed.before.connection}-{one.claimed.fence}.json"
