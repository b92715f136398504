"""The removals of organizations as rows, in the registry that every service watches, and as they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from nats.aio.client import Client
from sqlalchemy import RowMapping, cast, null, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.tables import removal, removal_part, resource
from shared.db import transaction
from shared.envelope import rfc3339, utc_now
from shared.messages import RemovalBegan, RemovalEnded
from shared.projected import Projected, Recorded, one_by_one
from shared.registry import RegistryWriter
from shared.removals import RemovalEntry
from shared.statements import Compiled, Statement, overwriting, parameter
from shared.values import moment_of

_R, _P = removal.c, removal_part.c
_BEGUN = Compiled(overwriting(upsert(removal), "id", "actor", "began_at", "ended_at", "until"))
_ENDED = Compiled(
    removal.update().where(_R.organization == parameter("of")).values(ended_at=parameter("at"), until=parameter("said_until"))
)


class RemovalPart(msgspec.Struct, frozen=True, kw_only=True):
    """How far an owner is: the step that was looked at last, what it found, or left, by kind, and why it could not go on."""

    owner: str
    step: str
    found: dict[str, int]
    error: str | None
    at: str


class RemovalView(msgspec.Struct, frozen=True, kw_only=True):
    """The last removal of an organization. While it goes on `ended_at` is null, and nobody acts in the organization."""

    organization: str
    id: str
    actor: str
    began_at: str
    ended_at: str | None
    owners: list[RemovalPart]
    kept: str = (
        "The audit trail keeps who did what in the organization, and that it was removed; the digests keep hashes of its messages. "
        "Backups hold what they held until they are deleted."
    )


class Removal(msgspec.Struct, frozen=True):
    """A removal that goes on."""

    organization: str
    id: str
    actor: str
    began_at: datetime


def projected(client: Client) -> Projected:
    """Return the projection of removals; it also repairs the registry after its writer died between stream and KV."""
    entries = RegistryWriter(client, "removals", RemovalEntry)

    async def began(message: RemovalBegan, at: Recorded) -> Statement:
        await entries.put(message.organization, at.delivered.sequence, entry_of(message, at.envelope.id, at.envelope.time))
        row = {"organization": message.organization, "id": at.envelope.id, "actor": message.actor, "began_at": at.envelope.time}
        return _BEGUN(**row, ended_at=None, until=None)

    async def ended(message: RemovalEnded, at: Recorded) -> Statement:
        entry = RemovalEntry(
            organization=message.organization,
            id=at.envelope.correlationid,
            actor="",
            began_at=at.envelope.time,
            until=moment_of(message.until),
        )
        await entries.put(message.organization, at.delivered.sequence, entry)
        return _ENDED(of=message.organization, at=at.envelope.time, said_until=entry.until)

    return Projected(
        name="removals",
        stream="CATALOG",
        apply=one_by_one({RemovalBegan: began, RemovalEnded: ended}),
        tables=("removal",),
        filters=("removal.>",),
    )


def entry_of(message: RemovalBegan, id_: str, at: datetime) -> RemovalEntry:
    """Return the registry's entry of a removal that goes on."""
    return RemovalEntry(organization=message.organization, id=id_, actor=message.actor, began_at=at)


class RemovalRows:
    """Reads removals, and keeps what is left at each owner. Raises `Unavailable` when the database is away."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def under_way(self) -> list[Removal]:
        """Return those that go on, the oldest first."""
        wanted = select(_R.organization, _R.id, _R.actor, _R.began_at).where(_R.ended_at.is_(null())).order_by(_R.began_at)
        async with transaction(self._engine) as connection:
            return [Removal(*row) for row in await connection.execute(wanted)]

    async def page(self, after: str, limit: int) -> list[RemovalView]:
        """Return removals by organization, after one."""
        wanted = select(removal).where(_R.organization > after).order_by(_R.organization).limit(limit)
        async with transaction(self._engine) as connection:
            rows = (await connection.execute(wanted)).mappings().all()
            of = [row["organization"] for row in rows]
            parts = (await connection.execute(select(removal_part).where(_P.organization.in_(of)).order_by(_P.at))).mappings().all()
        return [_view(row, parts) for row in rows]

    async def of(self, organization: str) -> RemovalView | None:
        """Return the last removal of an organization."""
        async with transaction(self._engine) as connection:
            row = (await connection.execute(select(removal).where(_R.organization == organization))).mappings().first()
            if row is None:
                return None
            wanted = select(removal_part).where(_P.organization == organization).order_by(_P.at)
            return _view(row, (await connection.execute(wanted)).mappings().all())

    async def note(self, one: Removal, owner: str, step: str, found: Mapping[str, int], error: str | None) -> None:
        """Keep what was found of an organization at an owner, in place of what was found before."""
        values = {"id": one.id, "step": step, "found": dict(found), "error": error, "at": utc_now()}
        made = upsert(removal_part).values(organization=one.organization, owner=owner, **values)
        async with transaction(self._engine) as connection:
            await connection.execute(made.on_conflict_do_update(index_elements=["organization", "owner"], set_=values))


async def members_of(engine: AsyncEngine, organization: str) -> list[str]:
    """Return the logins of users with a role in an organization."""
    roles = cast(resource.c.spec, JSONB)["roles"]
    wanted = select(resource.c.name).where(resource.c.noun == "user", ~resource.c.removed, roles.has_key(organization))
    async with transaction(engine) as connection:
        return list((await connection.execute(wanted.order_by(resource.c.name))).scalars())


def _view(row: RowMapping, parts: Any) -> RemovalView:
    return RemovalView(
        organization=row["organization"],
        id=row["id"],
        actor=row["actor"],
        began_at=rfc3339(row["began_at"]),
        ended_at=None if row["ended_at"] is None else rfc3339(row["ended_at"]),
        owners=[
            RemovalPart(owner=part["owner"], step=part["step"], found=part["found"], error=part["error"], at=rfc3339(part["at"]))
            for part in parts
            if (part["organization"], part["id"]) == (row["organization"], row["id"])
        ],
    )
