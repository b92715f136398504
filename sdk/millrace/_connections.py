"""`connections`: live credentials of this run's organization."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from millrace import _bounds
from millrace._runtime import channel


@dataclass(frozen=True)
class Connection:
    """A credential that was live when it was answered. Its token is left out of `repr`."""

    name: str
    token: str = field(repr=False)
    expires_at: datetime | None = None
    """Aware UTC; None when the provider names no end. Ask again rather than keep a token past it."""


class Connections:
    """Asks the platform for a connection by name; every call asks anew, so that a token is never stale."""

    def get(self, name: str) -> Connection:
        """Answer the connection, waiting for it. Raises `Refused` when the platform refuses, `NotInRun` outside a run.

        Inside a coroutine prefer `await connections.aget(name)`: this one holds up the event loop while it waits.
        """
        return _connection(name, channel.ask("connections", "connection", name=_name(name)))

    async def aget(self, name: str) -> Connection:
        """Answer the connection without holding up the event loop. Raises like `get`."""
        return _connection(name, await channel.aask("connections", "connection", name=_name(name)))


def _name(name: object) -> str:
    return _bounds.text(name, "a connection's name")


def _connection(name: str, answer: Any) -> Connection:
    ends = answer.get("expires_at")
    return Connection(
        name=answer.get("name") or name,
        token=answer["token"],
        expires_at=None if ends is None else datetime.fromisoformat(ends).astimezone(UTC),
    )


connections = Connections()
