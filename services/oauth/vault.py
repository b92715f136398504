"""Opens sealed values of rows for runs. Errors name keys, never values."""

from __future__ import annotations

from services.oauth.domain import Kept, place_of
from shared.encryption import CannotOpen, Keyring
from shared.errors import Unavailable
from shared.questions.oauth import GetSecret, GetToken


class Vault:
    """Reseals values between the places they belong to: a row, an answer."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def opened(self, row: Kept) -> str:
        """Return a row's value. Raises `Unavailable` for one that does not open, naming why."""
        try:
            return self._keyring.open(row.sealed, *place_of(row.noun, row.org, row.id, row.name))
        except CannotOpen as error:
            raise Unavailable(f"{row.noun} {row.name!r}: {error}", retry_after=60) from error

    def given(self, value: str, asked: GetToken | GetSecret, called: str) -> str:
        """Return a value sealed for the asker, as `called`."""
        return self._keyring.seal(value, asked.org, asked.nonce, called)
