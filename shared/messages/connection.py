"""Connections: credentials of one organization. Never a token in any of these."""

from __future__ import annotations

from shared.messages.declaration import Message, message


@message("connection.authorized", key="connection", by="oauth")
class ConnectionAuthorized(Message, frozen=True, kw_only=True):
    """A connection was created or changed, as a rule its credential; `version` counts that."""

    connection: str
    name: str
    grant: str
    version: int
    actor: str


@message("connection.revoked", key="connection", by="oauth")
class ConnectionRevoked(Message, frozen=True, kw_only=True):
    """A connection was deleted, and its credential with it."""

    connection: str
    name: str
    actor: str
