"""The messages of the gateway's resources into its rows and registries."""

from __future__ import annotations

from nats.aio.client import Client

from shared.owners.catalog import catalog_of
from shared.projected import Projected


def projected(client: Client) -> list[Projected]:
    """Return the catalog: the gateway has no other projection."""
    return [catalog_of("gateway", client)]
