"""Sealing and opening tokens and secrets: the only place of the service where one is readable."""

from __future__ import annotations

from collections.abc import Callable

from services.oauth.domain import Connection, Kept, Secret, check_secret, check_token
from shared.encryption import CannotOpen, Keyring
from shared.errors import Invalid, Unavailable
from shared.questions.oauth import GetToken, PutConnection
from shared.questions.settings import GetSecret, PutSecret

_TOKEN = "token"  # noqa: S105 - the name of a field
_SECRET = "secret"  # noqa: S105 - likewise


def place_of(row: Kept) -> tuple[str, str, str]:
    """Return what the value of a row is bound to: it opens in no other row, organization or table.

    A secret's is its name: what was sealed for `a` does not open as `b`.
    """
    return (row.org, row.name, _SECRET) if isinstance(row, Secret) else (row.org, row.id, _TOKEN)


class Vault:
    """Reseals values between the places they belong to: a command, a row, an answer. Errors name keys, never values."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def taken(self, command: PutConnection, connection: str) -> str:
        """Return the command's token sealed for the row of `connection`.

        Raises `Unavailable` when its key is not here (yet), `Invalid` when it was altered or cannot be a token.
        """
        return self._keyring.seal(self._told(command, _TOKEN, check_token), command.org, connection, _TOKEN)

    def secret_taken(self, command: PutSecret) -> str:
        """Return the command's secret sealed for the row of its organization and name. Raises as `taken`."""
        return self._keyring.seal(self._told(command, _SECRET, check_secret), command.org, command.name, _SECRET)

    def given(self, connection: Connection, asked: GetToken) -> str:
        """Return the row's token sealed for the asker. Raises `Unavailable` for a row that does not open, naming why."""
        return self._keyring.seal(self._opened(connection, "connection"), asked.org, asked.nonce, _TOKEN)

    def secret_given(self, secret: Secret, asked: GetSecret) -> str:
        """Return the row's value sealed for the asker. Raises `Unavailable` for a row that does not open, naming why."""
        return self._keyring.seal(self._opened(secret, "secret"), asked.org, asked.nonce, _SECRET)

    def openable(self, row: Kept) -> bool:
        """Return whether the key that sealed the row is here."""
        return self._keyring.knows(row.sealed)

    def renewed(self, row: Kept) -> str | None:
        """Return what is sealed in a row sealed with the first key, or None where it is, or does not open."""
        if self._keyring.is_current(row.sealed):
            return None
        place = place_of(row)
        try:
            return self._keyring.seal(self._keyring.open(row.sealed, *place), *place)
        except CannotOpen:
            return None

    def _told(self, command: PutConnection | PutSecret, field: str, check: Callable[[str], None]) -> str:
        try:
            value = self._keyring.open(command.sealed, command.org, command.id, field)
        except CannotOpen as error:
            if not self._keyring.knows(command.sealed):
                raise Unavailable(str(error)) from error
            raise Invalid(str(error)) from error
        check(value)
        return value

    def _opened(self, row: Kept, what: str) -> str:
        try:
            return self._keyring.open(row.sealed, *place_of(row))
        except CannotOpen as error:
            raise Unavailable(f"{what} {row.name!r}: {error}", retry_after=60) from error
