"""Removes what an organization has at an owner: its resources by their messages, and rows of every table."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import structlog
from nats.aio.client import Client
from sqlalchemy import MetaData, func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.blobs import Blobs
from shared.db import transaction
from shared.envelope import derived_id
from shared.erasing import erase_messages
from shared.errors import Conflict, NotFound
from shared.owners.keeper import Keeper
from shared.owners.rows import RESOURCE
from shared.projection import Projection
from shared.questions.removing import EraseOfOrganization, Left, RemoveOrganization
from shared.questions.resources import RemoveResource

# Seconds that one call goes on, well within the time that its asker waits.
SECONDS = 20.0
# Rows that one statement deletes.
TOGETHER = 2000
_C = RESOURCE.c
_log = structlog.get_logger()


class Deadline:
    """The time that a call has."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._at = time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        """Whether the rest is left to the next call."""
        return time.monotonic() >= self._at


async def resources_of(engine: AsyncEngine, org: str) -> list[tuple[str, str]]:
    """Return noun and name of the resources in the table `resource` that an organization has."""
    async with transaction(engine) as connection:
        found = await connection.execute(select(_C.noun, _C.name).where(_C.org == org, ~_C.removed).order_by(_C.noun, _C.name))
        return [(noun, name) for noun, name in found]


async def remove_resources(
    command: RemoveOrganization, keepers: Mapping[str, Keeper[Any]], found: Iterable[tuple[str, str]], deadline: Deadline
) -> dict[str, int]:
    """Remove resources as their keepers do, those first that nothing refers to; return how many of each noun are left.

    Raises `Conflict` where each that is left is held by something else than another one.
    """
    left = list(found)
    while left and not deadline.is_over:
        held: list[tuple[str, str]] = []
        obstacle: Conflict | None = None
        for noun, name in left:
            if deadline.is_over:
                held.append((noun, name))
                continue
            # Sent again after a kill it is the same command: what it has removed it does not miss.
            id_ = derived_id(command.id, noun, name)
            removing = RemoveResource(id=id_, org=command.organization, actor=command.actor, noun=noun, name=name)
            try:
                await keepers[noun].remove(removing)
            except NotFound:
                continue
            except Conflict as error:
                obstacle = error
                held.append((noun, name))
        if obstacle is not None and len(held) == len(left):
            raise obstacle
        left = held
    return counted(noun for noun, _ in left)


def counted(kinds: Iterable[str]) -> dict[str, int]:
    """Return how often each occurs."""
    counts: dict[str, int] = {}
    for kind in kinds:
        counts[kind] = counts.get(kind, 0) + 1
    return counts


async def are_level(projections: Collection[Projection]) -> dict[str, int]:
    """Return nothing once rows reflect all that is on the bus: then no message makes one that is deleted. Raises `Unavailable`."""
    behind = [one.name for one in projections if not await one.is_level()]
    return {f"rows of {name} behind": 1 for name in behind}


class Rows:
    """The rows of a schema that belong to an organization: those of tables with a column `org`, and those that `besides` names.

    `besides` gives a condition over `:org` by table; such tables come first, because they are found by the others.
    """

    def __init__(self, engine: AsyncEngine, metadata: MetaData, besides: Mapping[str, str] | None = None) -> None:
        self._engine = engine
        own = {table.name: "org = :org" for table in metadata.sorted_tables if "org" in table.columns}
        # Last: others are found by it.
        last = {"resource": own.pop("resource")} if "resource" in own else {}
        self._conditions = {**(besides or {}), **{name: of for name, of in own.items() if name not in (besides or {})}, **last}

    async def delete(self, org: str, deadline: Deadline, *, but: Collection[str] = ()) -> dict[str, int]:
        """Delete them; return how many there were by table, those that are left to another call counted as one."""
        found: dict[str, int] = {}
        for table, condition in self._conditions.items():
            if table in but:
                continue
            if deadline.is_over:
                found.setdefault(table, 1)
                return found
            while deleted := await self._deleted(table, condition, org):
                found[table] = found.get(table, 0) + deleted
                if deadline.is_over:
                    return found
        return found

    async def _deleted(self, table: str, condition: str, org: str) -> int:
        some = f'SELECT ctid FROM "{table}" WHERE {condition} LIMIT {TOGETHER}'  # noqa: S608 - all ours
        async with transaction(self._engine) as connection:
            deleting = text(f'DELETE FROM "{table}" WHERE ctid IN ({some})')  # noqa: S608 - all ours
            done = await connection.execute(deleting, {"org": org})
        return int(done.rowcount)

    async def count(self, org: str, tables: Collection[str]) -> dict[str, int]:
        """Return how many rows there are in tables that have some, and resources by noun."""
        counts: dict[str, int] = {}
        async with transaction(self._engine) as connection:
            for table in tables:
                statement = text(f'SELECT count(*) FROM "{table}" WHERE {self._conditions[table]}')  # noqa: S608 - all ours
                counts[table] = int((await connection.execute(statement, {"org": org})).scalar_one())
            if "resource" in self._conditions:
                found = select(_C.noun, func.count()).where(_C.org == org, ~_C.removed).group_by(_C.noun).order_by(_C.noun)
                counts |= {str(row[0]): int(row[1]) for row in await connection.execute(found)}
        return {kind: number for kind, number in counts.items() if number}


async def erase_of_organization(client: Client, command: EraseOfOrganization, objects: Blobs | None = None) -> Left:
    """Erase the messages that a command names, and its blobs of the bucket `objects`. Raises `Unavailable`, `StreamError`."""
    await erase_messages(client, command.stream, command.incarnation, command.sequences)
    if objects is not None:
        for blob in command.blobs:
            await objects.remove(blob)
    return Left()
