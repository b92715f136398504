"""`integrations`: the settings of an external system for this run's organization, with a live token for it.

In a workflow:

    from millrace import integrations, workflow

    @workflow
    def tickets() -> list:
        halo = integrations.get("halopsa")
        request = Request(halo.config["url"] + "/tickets", headers={"Authorization": f"Bearer {halo.token}"})
        return json.load(urlopen(request))
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from millrace import _bounds
from millrace._connections import Connection, connections
from millrace._runtime import channel
from millrace.errors import Refused

if TYPE_CHECKING:
    from millrace._http import Client


@dataclass(frozen=True)
class Integration:
    """An integration as the organization has mapped it. It holds no token: each use of one asks for a live one."""

    name: str
    config: dict[str, Any]
    """The organization's configuration; it fits the integration's schema."""
    entity_id: str | None
    """The organization's entity in the external system, if it has one."""
    connection: str | None
    """The name of the connection that the token is of."""

    @property
    def token(self) -> str:
        """A live token, waited for. Raises `Refused` where there is no connection.

        Inside a coroutine prefer `await integration.atoken()`: this one holds up the event loop while it waits.
        """
        return self.credential().token

    async def atoken(self) -> str:
        """Answer a live token without holding up the event loop. Raises like `token`."""
        return (await connections.aget(self._connected())).token

    def credential(self) -> Connection:
        """Answer the connection, with its token and its end. Raises like `token`."""
        return connections.get(self._connected())

    def client(self, *, timeout: float = 30.0, patience: float = 60.0, cafile: str | None = None) -> "Client":
        """Answer a client for the connection's API: see `connections.client`. Raises `Refused` where there is no connection."""
        return connections.client(self._connected(), timeout=timeout, patience=patience, cafile=cafile)

    def _connected(self) -> str:
        if self.connection is None:
            raise Refused("NotFound", f"this organization's mapping of integration {self.name!r} names no connection")
        return self.connection


class Integrations:
    """Asks for an integration's values for the organization; every call asks anew."""

    def get(self, name: str) -> Integration:
        """Answer the integration, waiting for it. Raises `Refused`, which says what is missing, and `NotInRun` outside a run.

        Inside a coroutine prefer `await integrations.aget(name)`: this one holds up the event loop while it waits.
        """
        return _integration(channel.ask("integrations", "integration", name=_name(name)))

    async def aget(self, name: str) -> Integration:
        """Answer the integration without holding up the event loop. Raises like `get`."""
        return _integration(await channel.aask("integrations", "integration", name=_name(name)))


def _name(name: object) -> str:
    return _bounds.text(name, "an integration's name")


def _integration(answer: dict[str, Any]) -> Integration:
    return Integration(answer["name"], answer["config"], answer["entity_id"], answer["connection"])


integrations = Integrations()
