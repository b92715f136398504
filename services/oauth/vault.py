"""Opens sealed values of rows, for runs and for another key. Errors name keys, never values."""

from __future__ import annotations

from services.oauth.domain import CALLED, Kept, place_of
from shared.encryption import CannotOpen, Keyring
from shared.errors import Unavailable
from shared.questions.oauth import GetSecret, GetToken


class Vault:
    """Reseals values between the places they belong to: a row, an answer."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def given(self, row: Kept, asked: GetToken | GetSecret) -> str:
        """Return the row's value sealed for the asker. Raises `Unavailable` for a row that does not open, naming why."""
        try:
            value = self._keyring.open(row.sealed, *_place(row))
        except CannotOpen as error:
            raise Unavailable(f"{row.noun} {row.name!r}: {error}", retry_after=60) from error
        return self._keyring.seal(value, asked.org, asked.nonce, CALLED[row.noun])

    def renewed(self, row: Kept) -> str | None:
        """Return a row's value sealed with the first key, or None where it is already, or does not open."""
        if self._keyring.is_current(row.sealed):
            return None
        try:
            return self._keyring.seal(self._keyring.open(row.sealed, *_place(row)), *_place(row))
        except CannotOpen:
            return None


def _place(row: Kept) -> tuple[str, str, str]:
    return place_of(row.noun, row.org, row.id, row.name)
