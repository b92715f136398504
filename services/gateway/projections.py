"""The messages of the gateway's resources into its rows and registries."""

from __future__ import annotations

from nats.aio.client import Client

from services.gateway.removing import rows as removing
from shared.owners.catalog import catalog_of
from shared.projected import Projected


def projected(client: Client) -> list[Projected]:
    """Return the catalog, and the removals of organizations."""
    return [catalog_of("gateway", client), removing.projected(client)]
