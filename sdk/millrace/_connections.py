"""`connections`: live credentials of this run's organization."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from millrace import _bounds
from millrace._runtime import channel

if TYPE_CHECKING:
    from millrace._http import Client
    from millrace._mcp import ToolServer


@dataclass(frozen=True)
class Connection:
    """A credential that was live when it was answered. Its token is left out of `repr`."""

    name: str
    token: str = field(repr=False)
    expires_at: datetime | None = None
    """Aware UTC; None when the provider names no end. Ask again rather than keep a token past it."""
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    """Headers of a request that carry the credential, ready to send."""
    query: dict[str, str] = field(default_factory=dict, repr=False)
    """Parameters of the query string that carry it, where no header does."""
    base_url: str | None = None
    """Where the API is, if the connection or its provider says so."""
    version: int = field(default=0, repr=False)
    unreplaced: str | None = field(default=None, repr=False)
    """Why a rejected one was answered again, since there is none newer; None for any other."""


class Connections:
    """Asks the platform for a connection by name; every call asks anew, so that a token is never stale."""

    def get(self, name: str, *, rejected: Connection | None = None) -> Connection:
        """Answer the connection, waiting for it. Raises `Refused` when the platform refuses, `NotInRun` outside a run.

        `rejected` is one that the API has answered 401 to, though it has not ended: the platform gets another token then, for
        reports at most once a minute; where it does not, `unreplaced` of the answer says why.
        Inside a coroutine prefer `await connections.aget(name)`: this one holds up the event loop while it waits.
        """
        return connection_of(name, channel.ask("connections", "connection", name=_name(name), rejected=_version(rejected)))

    async def aget(self, name: str, *, rejected: Connection | None = None) -> Connection:
        """Answer the connection without holding up the event loop. Raises like `get`."""
        return connection_of(name, await channel.aask("connections", "connection", name=_name(name), rejected=_version(rejected)))

    def client(self, name: str, *, timeout: float = 30.0, patience: float = 60.0, cafile: str | None = None) -> "Client":
        """Answer a client for the connection's API; nothing is asked for before its first request.

        `timeout`: the seconds that one request may take, unless it says otherwise. `patience`: the seconds that all waits of one
        call may take together, where the API answers that it is asked too often; 0: it never waits. `cafile`: the path of a file
        with authorities that are trusted besides the usual ones.
        """
        from millrace._http import Client  # which knows of connections itself

        return Client(
            _name(name),
            timeout=_bounds.seconds(timeout, "timeout", above_zero=True),
            patience=_bounds.seconds(patience, "patience"),
            cafile=None if cafile is None else _bounds.text(cafile, "cafile", _bounds.PATH),
        )

    def mcp(self, name: str, *, timeout: float = 60.0, patience: float = 60.0, cafile: str | None = None) -> "ToolServer":
        """Answer the server for the Model Context Protocol at the connection's `base_url`, whose tools can be called.

        Nothing is asked for before its first call. The options are those of `client`: `timeout` is for one call of a tool.
        """
        from millrace._mcp import ToolServer  # which few workflows need

        return ToolServer(self.client(name, timeout=timeout, patience=patience, cafile=cafile))


def _name(name: object) -> str:
    return _bounds.text(name, "a connection's name")


def _version(rejected: Connection | None) -> int | None:
    return None if rejected is None else rejected.version


def connection_of(name: str, answer: Any) -> Connection:
    """Answer the connection that the platform's answer is about."""
    ends = answer.get("expires_at")
    return Connection(
        name=answer.get("name") or name,
        token=answer["token"],
        expires_at=None if ends is None else datetime.fromisoformat(ends).astimezone(UTC),
        headers=answer.get("headers") or {},
        query=answer.get("query") or {},
        base_url=answer.get("base_url"),
        version=answer.get("version") or 0,
        unreplaced=answer.get("unreplaced"),
    )


connections = Connections()
