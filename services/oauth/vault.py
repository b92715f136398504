"""Sealing and opening tokens: the only place of the service where one is readable."""

from __future__ import annotations

from services.oauth.domain import Connection, check_token
from shared.encryption import CannotOpen, Keyring
from shared.errors import Invalid, Unavailable
from shared.questions.oauth import GetToken, PutConnection

_FIELD = "token"


class Vault:
    """Reseals tokens between the places they belong to: a command, a row, an answer. Errors name keys, never tokens."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def taken(self, command: PutConnection, connection: str) -> str:
        """Return the command's token sealed for the row of `connection`.

        Raises `Unavailable` when its key is not here (yet), `Invalid` when it was altered or cannot be a token.
        """
        try:
            token = self._keyring.open(command.sealed, command.org, command.id, _FIELD)
        except CannotOpen as error:
            if not self._keyring.knows(command.sealed):
                raise Unavailable(str(error)) from error
            raise Invalid(str(error)) from error
        check_token(token)
        return self._keyring.seal(token, command.org, connection, _FIELD)

    def given(self, connection: Connection, asked: GetToken) -> str:
        """Return the row's token sealed for the asker. Raises `Unavailable` for a row that does not open, naming why."""
        try:
            token = self._keyring.open(connection.sealed, connection.org, connection.id, _FIELD)
        except CannotOpen as error:
            raise Unavailable(f"connection {connection.name!r}: {error}", retry_after=60) from error
        return self._keyring.seal(token, asked.org, asked.nonce, _FIELD)

    def openable(self, connection: Connection) -> bool:
        """Return whether the key that sealed the row is here."""
        return self._keyring.knows(connection.sealed)
