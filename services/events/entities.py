"""Entities of external systems: each stands for the organization that was the first to claim it.

A mapping of the platform's integration claims its `entity_id` where a source of the platform routes by it (`by_entity`). Only
the platform claims: nobody else knows whose an entity is. A later claim is refused as long as the first one stands.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared import aggregate
from shared.bus import Bus
from shared.db import transaction
from shared.errors import Conflict, Invalid, NotFound, PermissionDenied, Problem, Unavailable
from shared.organizations import PLATFORM
from shared.owners.rows import ResourceRows
from shared.projection import Projection
from shared.questions.resources import PutResource, RemoveResource

# Claims under way in this process: each has a connection to the database, of a pool that questions share.
AT_ONCE = 2
# Characters of an entity id, and organizations that have it, in a sentence.
LONGEST, MOST = 200, 10


async def organization_of(rows: ResourceRows, integration: str, entity: str) -> str:
    """Return the one organization whose mapping of the platform's integration has an entity id. Raises `NotFound`, `Invalid`."""
    orgs = await claimants(rows, integration, entity)
    if len(orgs) > 1:
        raise Invalid(
            f"{'more' if len(orgs) > MOST else len(orgs)} organizations have the entity_id {entity[:LONGEST]!r} in integration "
            f"{integration!r}: {', '.join(orgs[:MOST])}; it is to stay in the mapping of one of them"
        )
    if not orgs:
        raise NotFound(
            f"no organization's mapping of integration {integration!r} has the entity_id {entity[:LONGEST]!r}: put it into one "
            f"with millrace integrations map {integration} --org ORG --entity-id {entity[:LONGEST]!r}"
        )
    return orgs[0]


async def claimants(rows: ResourceRows, integration: str, entity: str) -> list[str]:
    """Return the organizations whose mapping of the platform's integration has an entity id, the first ones by name."""
    found = await rows.across_having("mapping", integration, {"entity_id": entity}, without="integration", limit=MOST + 1)
    return [one.org for one in found]


class Claims:
    """Claims of entities, and sources that are counted: one at a time of an entity, or of an organization, in whatever replica."""

    def __init__(self, rows: ResourceRows, engine: AsyncEngine, bus: Bus, catalog: Projection) -> None:
        self._rows = rows
        self._engine = engine
        self._bus = bus
        self._catalog = catalog
        self._places = asyncio.Semaphore(AT_ONCE)

    @asynccontextmanager
    async def alone(self, command: PutResource | RemoveResource) -> AsyncIterator[None]:
        """Let no other claim of the entity of an organization's mapping be made within the block. Raises `Unavailable`.

        An organization that removes its own integration leaves its mapping to the platform's one of that name: a claim as well.
        """
        entity = command.fields.get("entity_id") if isinstance(command, PutResource) else None
        if command.org == PLATFORM or (isinstance(command, PutResource) and entity is None):
            yield
            return
        async with self._places, transaction(self._engine) as connection:
            await self._lock(connection, f"{command.org}/{command.name}")
            if entity is None:
                entity = await self._entity(command.org, command.name)
            if entity is not None:
                await self._lock(connection, f"{command.name}:{entity}")
            yield

    @asynccontextmanager
    async def counted(self, org: str) -> AsyncIterator[None]:
        """Let no other source of an organization be recorded so within the block: they are counted. Raises `Unavailable`."""
        async with self._places, transaction(self._engine) as connection:
            await self._lock(connection, f"sources of {org}")
            yield

    async def check_mapping(self, org: str, name: str, entity: str, *, by_platform: bool) -> None:
        """Raise `Conflict` where a mapping is not to have an entity id; nothing in it is about whoever has it.

        Raises `PermissionDenied` where it would be claimed by an organization itself, whether or not it is claimed already.
        """
        claimed = await claimants(self._rows, name, entity)
        if org in claimed or not await self._is_routed_by(name):
            return
        if not by_platform:
            raise PermissionDenied(
                f"events are routed by the entity_id of integration {name!r}: to give it to somebody takes a key of {PLATFORM}"
            )
        if claimed:
            detail = (
                f"the entity_id {entity[:LONGEST]!r} of integration {name!r} is claimed already, by a mapping that is not yours; "
                f"somebody who may write both mappings can move it"
            )
            raise Conflict(detail, errors=(Problem("entity_id", "is claimed already"),))

    async def check_removal(self, org: str, name: str) -> None:
        """Raise `Conflict` where the mapping that an organization's own integration leaves would claim an entity."""
        if org != PLATFORM and await self._entity(org, name) is not None and await self._is_routed_by(name):
            raise Conflict(
                f"the mapping of {name!r} has an entity_id, and would claim it in the integration of {PLATFORM}: take it out first"
            )

    async def _entity(self, org: str, name: str) -> str | None:
        found = await self._rows.of("mapping", {name}, {org})
        return found[0].spec.entity_id if found else None

    async def _is_routed_by(self, name: str) -> bool:
        return bool(await self._rows.having("source", PLATFORM, {"integration": name, "by_entity": True}, limit=1))

    async def _lock(self, connection: AsyncConnection, text: str) -> None:
        """Take a lock until the end of the transaction, and wait for the rows of what was recorded before."""
        await connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(text, 4))))
        newest = await aggregate.newest(self._bus.client, "mapping", "integration", "source")
        if not await self._catalog.caught_up(newest):
            raise Unavailable("the rows of mappings are behind")
