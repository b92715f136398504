"""Connections: credentials of one organization. Never a token in any of these."""

from __future__ import annotations

from shared.messages.declaration import Message, message


@message("connection.authorized", key="connection", by="oauth")
class ConnectionAuthorized(Message, frozen=True, kw_only=True):
    """A connection was created or changed, or a person has authorized it; `version` counts the changes."""

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


@message("connection.refreshed", key="connection", by="oauth")
class ConnectionRefreshed(Message, frozen=True, kw_only=True):
    """The provider gave a new token, the one with the number `token_version`; no `expires_at` where it names no end."""

    connection: str
    name: str
    provider: str
    token_version: int
    expires_at: str | None = None
    scope: str | None = None


@message("connection.refresh_failed", key="connection", by="oauth")
class ConnectionRefreshFailed(Message, frozen=True, kw_only=True):
    """The provider gave no token, for another reason than the last time; `failure` is the class of its answer."""

    connection: str
    name: str
    provider: str
    failure: str
    reason: str
    status: str


@message("connection.needs_reauthorization", key="connection", by="oauth")
class ConnectionNeedsReauthorization(Message, frozen=True, kw_only=True):
    """The provider has ended the grant: no token is to be had until a person authorizes the connection again."""

    connection: str
    name: str
    provider: str
    reason: str
