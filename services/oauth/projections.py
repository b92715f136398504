"""Messages into rows: variables. Connections and secrets have no projection, because no message holds a sealed value."""

from __future__ import annotations

from nats.aio.client import Client

from shared.owners.catalog import catalog_of
from shared.projected import Projected


def projected(client: Client) -> list[Projected]:
    """Return every projection of this service."""
    return [catalog_of("oauth", client)]
