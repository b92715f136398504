"""The messages of resources into their owner's rows, and into the registries that it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec
from nats.aio.client import Client

from shared.envelope import rfc3339
from shared.messages.declaration import Message
from shared.owners import rows
from shared.owners.rules import Derive, nothing
from shared.projected import Projected, Projections, Recorded, one_by_one
from shared.registry import RegistryWriter
from shared.resources.declaration import KINDS, Kind, Resource, ResourceChanged, ResourceRemoved
from shared.statements import Statement


class Entries:
    """The registry of one kind of resource, as its owner writes it; of a kind that has none it does nothing."""

    def __init__(self, client: Client, kind: Kind, derive: Derive) -> None:
        self._derive = derive
        self._writer = RegistryWriter(client, kind.plural, Resource[kind.spec]) if kind.registered else None  # type: ignore[name-defined]

    def entry(self, stored: Resource[Any]) -> Resource[Any]:
        """Return a resource as the registry holds it."""
        return msgspec.structs.replace(stored, derived=self._derive(stored))

    async def put(self, stored: Resource[Any]) -> None:
        """Make it the entry of its id, unless a newer one is there."""
        if self._writer is not None:
            await self._writer.put(stored.id, stored.version, self.entry(stored))

    async def remove(self, id_: str, version: int) -> None:
        """Make it one that was removed."""
        if self._writer is not None:
            await self._writer.put(id_, version, None)


def catalog_of(owner: str, client: Client, derive: Mapping[str, Derive] = MappingProxyType({})) -> Projected:
    """Return the projection of an owner's resources into its rows.

    It also repairs a registry whose writer died between the stream and the KV.
    """
    projections: dict[type[Message], Any] = {}
    nouns = [one for one in KINDS.values() if one.owner == owner and not one.in_vault]
    for kind in nouns:
        projections |= _projections(kind, Entries(client, kind, derive.get(kind.noun, nothing)))
    filters = tuple(f"{kind.noun}.>" for kind in nouns)
    return Projected(name="catalog", stream="CATALOG", apply=one_by_one(projections), tables=("resource",), filters=filters)


def _projections(kind: Kind, entries: Entries) -> Projections:
    async def changed(message: ResourceChanged, at: Recorded) -> Statement:
        await entries.put(made(kind, message, at.envelope.org, rfc3339(at.envelope.time), at.delivered.sequence))
        return rows.put(kind.noun, message, at)

    async def removed(message: ResourceRemoved, at: Recorded) -> Statement:
        await entries.remove(message.id, at.delivered.sequence)
        return rows.remove(message, at)

    assert kind.changed is not None and kind.removed is not None  # noqa: S101, PT018 - it is in the catalog
    return {kind.changed: changed, kind.removed: removed}


def made(kind: Kind, message: ResourceChanged, org: str, at: str, version: int) -> Resource[Any]:
    """Return the resource that a message of an organization makes."""
    return Resource(
        id=message.id,
        org=org,
        key=message.key,
        name=message.name,
        spec=kind.spec_of(message.spec),
        refs=message.refs,
        sealed=message.sealed,
        applied_as=message.applied_as,
        created_at=message.created_at,
        updated_at=at,
        version=version,
    )
