"""The rows of resources: one table per owner, the same in each, written by the projection of the catalog."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import asyncpg
import msgspec
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    MetaData,
    RowMapping,
    Select,
    Text,
    and_,
    any_,
    cast,
    exists,
    func,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.db import transaction
from shared.encryption import is_sealed_by
from shared.envelope import rfc3339
from shared.organizations import PLATFORM, seen_by
from shared.owners.rotation import StaleRow
from shared.projected import Recorded
from shared.resources.declaration import KINDS, Resource, ResourceChanged, ResourceRemoved
from shared.statements import Compiled, Filtered, Statement, overwriting, parameter
from shared.tables import resource_in

RESOURCE = resource_in(MetaData())
_C = RESOURCE.c


_NOUN, _ORG, _NAME, _OWNERS = parameter("noun"), parameter("org"), parameter("name"), parameter("owners", ARRAY(Text))
_AFTER, _LIMIT = parameter("after"), parameter("limit", BigInteger)
_IS_NAME = _C.name == _NAME
# Of the resources that an organization sees its own come first.
_OWN_FIRST = (_C.org == _ORG).desc()
_LIVE = select(RESOURCE).where(_C.noun == _NOUN, ~_C.removed)
_SEEN = _LIVE.where(_C.org == any_(_OWNERS))
_BY_ID = Compiled(select(RESOURCE).where(_C.noun == _NOUN, _C.id == parameter("id")))
_NAMED = Compiled(_SEEN.where(or_(_IS_NAME, _C.id == _NAME)).order_by(_IS_NAME.desc(), _OWN_FIRST).limit(literal_column("1")))
_KNOWN = Compiled(
    select(RESOURCE)
    .where(_C.noun == _NOUN, _C.org == _ORG, or_(and_(_IS_NAME, ~_C.removed), _C.id == _NAME))
    .order_by(_IS_NAME.desc())
    .limit(literal_column("1"))
)
# Of one organization alone the index has the order, and no more is read than is wanted.
_OWN_PAGE = Compiled(_LIVE.where(_C.org == _ORG, _C.name > _AFTER).order_by(_C.name).limit(_LIMIT))
_PAGE = Compiled(_SEEN.where(_C.name > _AFTER).order_by(_C.name, _OWN_FIRST).ext(distinct_on(_C.name)).limit(_LIMIT))
_ACROSS = Filtered(
    _LIVE.where(_IS_NAME, _C.org > _AFTER).order_by(_C.org).limit(_LIMIT),
    org=_C.org == _ORG,
)


class ResourceRows:
    """Reads of one owner's resources. Raises `Unavailable` when the database is away."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def by_id(self, noun: str, id_: str) -> tuple[Resource[Any], bool] | None:
        """Return a resource of any organization, and whether it was removed: then in its last state."""
        rows = await _BY_ID(noun=noun, id=id_).read(self._engine)
        return (resource_of(rows[0]), rows[0]["removed"]) if rows else None

    async def named(self, noun: str, org: str, name_or_id: str, *, inherited: bool = False) -> Resource[Any] | None:
        """Return the resource that an organization means by a name or an id: its own one, with `inherited` else the platform's."""
        return await self._first(_NAMED(noun=noun, owners=_owners(org, inherited=inherited), org=org, name=name_or_id))

    async def known(self, noun: str, org: str, name_or_id: str) -> Resource[Any] | None:
        """Return the organization's own resource of a name or an id; one that was removed is still known by its id."""
        return await self._first(_KNOWN(noun=noun, org=org, name=name_or_id))

    async def page(self, noun: str, org: str, after: str, limit: int, *, inherited: bool = False) -> list[Resource[Any]]:
        """Return the resources that an organization sees, by name, after a name; its own ones hide the platform's."""
        wanted: dict[str, Any] = {"noun": noun, "org": org, "after": after, "limit": limit}
        found = _PAGE(**wanted, owners=list(seen_by(org))) if inherited else _OWN_PAGE(**wanted)
        rows = await found.read(self._engine)
        return [resource_of(row) for row in rows]

    async def across(self, noun: str, name: str, org: str | None, after: str, limit: int) -> list[Resource[Any]]:
        """Return the resources of one name, of all organizations or of one, by organization, after one."""
        rows = await _ACROSS({"org": org}, noun=noun, name=name, after=after, limit=limit).read(self._engine)
        return [resource_of(row) for row in rows]

    async def across_having(
        self, noun: str, name: str, fields: Mapping[str, Any], *, without: str, limit: int
    ) -> list[Resource[Any]]:
        """Return the resources of one name, of all organizations, whose spec has these values, by organization.

        Left out are those of organizations which have a resource `without` of that name themselves.
        """
        hidden = RESOURCE.alias()
        own = select(hidden.c.id).where(hidden.c.noun == without, hidden.c.org == _C.org, hidden.c.name == name, ~hidden.c.removed)
        found = _across(noun, name).where(_has(fields), or_(_C.org == PLATFORM, ~own.exists()))
        return await self._all(found.order_by(_C.org).limit(limit))

    async def having(self, noun: str, org: str, fields: Mapping[str, Any], *, limit: int) -> list[Resource[Any]]:
        """Return an organization's own resources whose spec has these values, by name."""
        return await self._all(_live(noun, org, inherited=False).where(_has(fields)).order_by(_C.name).limit(limit))

    async def names(self, noun: str, org: str, *, inherited: bool = False, limit: int = 1000) -> list[str]:
        """Return the names of the resources that an organization sees."""
        statement = _live(noun, org, inherited=inherited).with_only_columns(_C.name).distinct().limit(limit)
        async with transaction(self._engine) as connection:
            return list((await connection.execute(statement)).scalars())

    async def of(self, noun: str, names: Collection[str], orgs: Collection[str]) -> list[Resource[Any]]:
        """Return the resources of these names of these organizations."""
        return await self._all(select(RESOURCE).where(_C.noun == noun, ~_C.removed, _C.name.in_(names), _C.org.in_(orgs)))

    async def count(self, noun: str, org: str) -> int:
        """Return how many of a kind an organization has."""
        return await self._counted(and_(_C.noun == noun, _C.org == org))

    async def referring(self, noun: str, field: str, id_: str) -> int:
        """Return how many of a kind refer to a resource by id."""
        return await self._counted(_referring(noun, field, id_))

    async def referrers(self, noun: str, field: str, id_: str, limit: int) -> list[Resource[Any]]:
        """Return the first of a kind, by name, that refer to a resource by id."""
        found = select(RESOURCE).where(_referring(noun, field, id_), ~_C.removed)
        return await self._all(found.order_by(_C.name).limit(limit))

    async def stale(self, key: str, after: str, limit: int) -> list[StaleRow]:
        """Return the resources with a secret that another key than the one of this id seals, by id, those after `after`."""
        found = select(_C.id, _C.noun, _C.org, _C.name, _C.sealed).where(_is_stale(key), _C.id > after).order_by(_C.id).limit(limit)
        async with transaction(self._engine) as connection:
            rows = (await connection.execute(found)).all()
        return [
            StaleRow(
                id_, noun, org, name, {(org, id_, one): value for one, value in sealed.items() if not is_sealed_by(value, key)}
            )
            for id_, noun, org, name, sealed in rows
        ]

    async def count_stale(self, key: str) -> int:
        """Return how many there are."""
        return await self._counted(_is_stale(key))

    async def _counted(self, condition: Any) -> int:
        async with transaction(self._engine) as connection:
            found = await connection.execute(select(func.count()).select_from(RESOURCE).where(condition, ~_C.removed))
            return int(found.scalar_one())

    async def _first(self, statement: Statement) -> Resource[Any] | None:
        rows = await statement.read(self._engine)
        return resource_of(rows[0]) if rows else None

    async def _all(self, statement: Select[Any]) -> list[Resource[Any]]:
        async with transaction(self._engine) as connection:
            return [resource_of(row) for row in (await connection.execute(statement)).mappings()]


def _referring(noun: str, field: str, id_: str) -> ColumnElement[bool]:
    return and_(_C.noun == noun, _C.refs.contains(cast({field: id_}, JSONB)))


def _is_stale(key: str) -> ColumnElement[bool]:
    each = func.jsonb_each_text(_C.sealed).table_valued("key", "value")
    return and_(~_C.removed, exists().select_from(each).where(~each.c.value.startswith(f"v1.{key}.", autoescape=True)))


def _has(fields: Mapping[str, Any]) -> ColumnElement[bool]:
    return cast(_C.spec, JSONB).contains(cast(dict(fields), JSONB))


def _across(noun: str, name: str) -> Select[Any]:
    return select(RESOURCE).where(_C.noun == noun, ~_C.removed, _C.name == name)


def _owners(org: str, *, inherited: bool) -> list[str]:
    return list(seen_by(org)) if inherited else [org]


def _live(noun: str, org: str, *, inherited: bool) -> Select[Any]:
    return select(RESOURCE).where(_C.noun == noun, ~_C.removed, _C.org.in_(_owners(org, inherited=inherited)))


def resource_of(row: RowMapping | asyncpg.Record) -> Resource[Any]:
    """Return the resource that a row stands for."""
    return Resource(
        id=row["id"],
        org=row["org"],
        key=row["key"],
        name=row["name"],
        spec=KINDS[row["noun"]].spec_of(row["spec"]),
        refs=row["refs"],
        sealed=row["sealed"],
        applied_as=row["applied_as"],
        created_at=rfc3339(row["created_at"]),
        updated_at=rfc3339(row["updated_at"]),
        version=row["version"],
    )


# The fields that an id keeps. In messages of an older version a removed resource may have come back under its id.
_FIRST = ("id", "noun", "org", "name", "key")
_PUT = Compiled(overwriting(insert(RESOURCE), *(column.name for column in _C if column.name not in _FIRST)))
_REMOVE = Compiled(
    update(RESOURCE)
    .where(_C.id == parameter("of"))
    .values(removed=true(), sealed=literal_column("'{}'"), updated_at=parameter("at"), version=parameter("at_version"))
)


def put(noun: str, message: ResourceChanged, at: Recorded) -> Statement:
    """Write the row of a resource from its last message."""
    values = (
        msgspec.structs.asdict(message)
        | {name: msgspec.json.encode(getattr(message, name)).decode() for name in ("spec", "refs", "sealed")}
        | {
            "noun": noun,
            "removed": False,
            "org": at.envelope.org,
            "created_at": datetime.fromisoformat(message.created_at),
            "updated_at": at.envelope.time,
            "version": at.delivered.sequence,
        }
    )
    return _PUT(**values)


def remove(message: ResourceRemoved, at: Recorded) -> Statement:
    """Mark the row of a resource as removed, and forget its secrets."""
    return _REMOVE(of=message.id, at=at.envelope.time, at_version=at.delivered.sequence)
