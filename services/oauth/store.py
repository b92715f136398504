"""The SQL of rows with something sealed: one method, one statement, one intention."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    ColumnElement,
    Text,
    any_,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.expression import Executable, UnaryExpression
from sqlalchemy.sql.selectable import LateralFromClause

from services.oauth.domain import Kept, place_of
from services.oauth.tables import done_command, past_version, token, vault
from shared.db import transaction
from shared.organizations import PLATFORM, seen_by
from shared.owners.rotation import Place, StaleRow
from shared.statements import Compiled, given, overwriting, parameter

_C = vault.c
_PAST = past_version.c

_NOUN, _ORG, _NAME, _AFTER = parameter("noun"), parameter("org"), parameter("name"), parameter("after")
_LIMIT = parameter("limit", BigInteger)
_IS_NAME = _C.name == _NAME
_OF_NOUN = select(vault).where(_C.noun == _NOUN)
_NAMED = Compiled(
    _OF_NOUN.where(_C.org == _ORG, or_(_IS_NAME, _C.id == _NAME)).order_by(_IS_NAME.desc()).limit(literal_column("1"))
)
_OF_ID = Compiled(_OF_NOUN.where(_C.id == parameter("id")))
_PAGE = _OF_NOUN.where(_C.name > _AFTER, ~_C.revoking).limit(_LIMIT)
# Of one organization alone the index has the order, and no more is read than is wanted.
_OWN_PAGE = Compiled(_PAGE.where(_C.org == _ORG).order_by(_C.name))
_SEEN_PAGE = Compiled(
    _PAGE.where(_C.org == any_(parameter("orgs", ARRAY(Text)))).ext(distinct_on(_C.name)).order_by(_C.name, (_C.org == _ORG).desc())
)
_DONE = Compiled(select(done_command.c.removed).where(done_command.c.id == parameter("id")))
# Of every question for a token or a secret.
_USABLE = Compiled(
    select(vault)
    .where(
        _C.noun == parameter("noun"),
        _C.org == any_(parameter("orgs", ARRAY(Text))),
        _C.name == parameter("name"),
        ~_C.revoking,
        or_(~parameter("by_run", Boolean), func.coalesce(_C.spec["readers"].as_string(), "runs") != "services"),
    )
    .order_by((_C.org == parameter("own", Text)).desc())
    .limit(1)
)
# Of every question for a token: names of connections are looked up as by `_USABLE`, those of their providers likewise.
_ASKED = given(_C.org, _C.name)


def _first_seen(name: str, noun: str, org: ColumnElement[str], wanted: ColumnElement[str]) -> LateralFromClause:
    one = vault.alias(f"any_{name}")
    seen = one.c.org.in_([org, PLATFORM])
    found = select(one.c.id, one.c.org, one.c.spec, literal_column(f"any_{name}.xmin").label("written"))
    return (
        found.where(one.c.noun == noun, seen, one.c.name == wanted, ~one.c.revoking)
        .order_by((one.c.org == org).desc())
        .limit(1)
        .lateral(name)
    )


_MEANT = _first_seen("meant", "connection", _ASKED.c.org, _ASKED.c.name)
_THERE = _first_seen("there", "provider", _MEANT.c.org, _MEANT.c.spec["provider"].as_string())
_STAMPS = Compiled(
    select(
        _ASKED.c.org.label("org"),
        _ASKED.c.name.label("name"),
        _MEANT.c.id.label("connection"),
        _MEANT.c.written.label("written"),
        _THERE.c.id.label("provider"),
        _THERE.c.written.label("provider_written"),
        literal_column("token.xmin").label("token_written"),
    ).select_from(_ASKED.join(_MEANT, true()).outerjoin(_THERE, true()).outerjoin(token, token.c.connection == _MEANT.c.id))
)


class Stamp(NamedTuple):
    """What a connection's credential is made from, each row with the transaction that wrote it last (Postgres' `xmin`).

    Two that are equal say that nothing of it has been written in between, by whomever.
    """

    connection: str
    written: int
    provider: str | None
    provider_written: int | None
    token_written: int | None


class KeptStore:
    """The rows. Each method is a transaction of its own. Raises `Unavailable` when the database is away."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def named(self, noun: str, org: str, name_or_id: str) -> Kept | None:
        """Return the organization's row of that name, else of that id, also one that is being revoked."""
        return _first(await _NAMED(noun=noun, org=org, name=name_or_id).read(self._engine))

    async def of_id(self, noun: str, id_: str) -> Kept | None:
        """Return a row of any organization, also one that is being revoked."""
        return _first(await _OF_ID(noun=noun, id=id_).read(self._engine))

    async def usable(self, noun: str, org: str, name: str, *, by_run: bool) -> Kept | None:
        """Return the row that serves the organization: its own, else the platform's; none that is being revoked.

        `by_run`: none either that is for services alone.
        """
        usable = _USABLE(noun=noun, orgs=list(seen_by(org)), own=org, name=name, by_run=by_run)
        return _first(await usable.read(self._engine))

    async def stamps(self, asked: Collection[tuple[str, str]]) -> dict[tuple[str, str], Stamp]:
        """Return the stamps of the connections that serve these organizations by these names, of those that there are."""
        statement = _STAMPS(org=[org for org, _ in asked], name=[name for _, name in asked])
        found = await statement.read(self._engine)
        return {(row["org"], row["name"]): Stamp(*(row[field] for field in Stamp._fields)) for row in found}

    async def page(self, noun: str, org: str, *, after: str, limit: int, inherited: bool = False) -> list[Kept]:
        """Return rows by name, those after `after`; `inherited`: also those of the platform whose name the organization has not."""
        wanted: dict[str, Any] = {"noun": noun, "org": org, "after": after, "limit": limit}
        found = _SEEN_PAGE(**wanted, orgs=list(seen_by(org))) if inherited else _OWN_PAGE(**wanted)
        return [Kept(**row) for row in await found.read(self._engine)]

    async def names_of(self, noun: str, org: str, names: Collection[str]) -> set[str]:
        """Return those of these names that the organization has, or the platform."""
        there = select(_C.name).where(_C.noun == noun, _C.org.in_(seen_by(org)), _C.name.in_(list(names)), ~_C.revoking)
        async with transaction(self._engine) as connection:
            return set((await connection.execute(there)).scalars())

    async def referrers(self, org: str, provider: str, limit: int) -> list[Kept]:
        """Return connections that mean a provider of an organization; for the platform's also those of others without their own."""
        mine: ColumnElement[bool] = _C.org == org
        if org == PLATFORM:
            own = vault.alias("own")
            mine |= ~exists().where(own.c.noun == "provider", own.c.org == _C.org, own.c.name == provider)
        naming = (_C.noun == "connection") & (_C.spec["provider"].as_string() == provider)
        return await self._all(naming & mine & ~_C.revoking, _C.name.asc(), limit)

    async def add(self, row: Kept) -> Kept | None:
        """Insert a row, at the version after that of one of its name that was removed; None when there is one by now."""
        last = (_PAST.noun == _C.noun) & (_PAST.org == _C.org) & (_PAST.name == _C.name)
        async with transaction(self._engine) as connection:
            added = await connection.execute(insert(vault).values(_values(row)).on_conflict_do_nothing())
            if not added.rowcount:
                return None
            # A statement of its own: the first may have waited for a removal, whose version it did not see yet.
            later = update(vault).where(_C.id == row.id, last).values(version=_PAST.version + _C.version).returning(_C.version)
            found = (await connection.execute(later)).scalar_one_or_none()
            return row if found is None else msgspec.structs.replace(row, version=found)

    async def replace(self, before: Kept, row: Kept) -> Kept | None:
        """Replace the row `before`, and remember the command that made it so; None when it is another by now."""
        there = (_C.version == before.version) & (_C.sealed == before.sealed) & ~_C.revoking
        async with transaction(self._engine) as connection:
            replaced = await connection.execute(update(vault).where(_C.id == before.id, there).values(_values(row)))
            if replaced.rowcount:
                passed = {"id": before.last_command, "removed": False, "at": row.updated_at}
                await connection.execute(insert(done_command).values(passed).on_conflict_do_nothing())
            return row if replaced.rowcount else None

    async def mark_revoking(self, row: Kept, *, actor: str, command: str, now: datetime) -> bool:
        """Mark a row as about to be deleted; False when it has changed since it was read."""
        marked = update(vault).where(_C.id == row.id, _C.version == row.version, ~_C.revoking)
        return await self._changed(marked.values(revoking=True, announced=False, actor=actor, last_command=command, updated_at=now))

    async def mark_announced(self, row: Kept) -> None:
        """Record that the bus knows this very version."""
        known = update(vault).where(_C.id == row.id, _C.version == row.version, ~_C.revoking)
        await self._changed(known.values(announced=True))

    async def delete_revoked(self, row: Kept, now: datetime) -> None:
        """Delete a row whose removal the bus knows, and remember its version and the commands that made and removed it."""
        async with transaction(self._engine) as connection:
            commands = (_C.first_command, _C.last_command)
            found = await connection.execute(delete(vault).where(_C.id == row.id, _C.revoking).returning(*commands))
            if (gone := found.first()) is not None:
                done = [{"id": id_, "removed": removed, "at": now} for id_, removed in zip(gone, (False, True), strict=True)]
                await connection.execute(insert(done_command).on_conflict_do_nothing(), done)
                past = {name: getattr(row, name) for name in ("noun", "org", "name", "version")}
                await connection.execute(overwriting(insert(past_version).values(past), "version"))

    async def done(self, command: str) -> bool | None:
        """Return None for a command that is not remembered; else whether it removed its row (or made it)."""
        rows = await _DONE(id=command).read(self._engine)
        return rows[0]["removed"] if rows else None

    async def forget_commands(self, before: datetime) -> None:
        """Forget commands that were carried out before that moment: they are not sent again."""
        await self._changed(delete(done_command).where(done_command.c.at < before))

    async def unannounced(self, before: datetime, limit: int) -> list[Kept]:
        """Return rows whose state the bus does not know, unchanged since `before`, oldest first."""
        return await self._all(~_C.announced & (_C.updated_at < before), _C.updated_at.asc(), limit)

    async def stale(self, key: str, after: str, limit: int) -> list[StaleRow]:
        """Return rows that another key than the one of this id seals, by id, those after `after`, of every organization."""
        found = await self._all(sealed_otherwise(_C.sealed, key) & (_C.id > after), _C.id.asc(), limit)
        return [
            StaleRow(one.id, one.noun, one.org, one.name, {place_of(one.noun, one.org, one.id, one.name): one.sealed})
            for one in found
        ]

    async def count_stale(self, key: str) -> int:
        """Return how many there are."""
        async with transaction(self._engine) as connection:
            found = await connection.execute(select(func.count()).where(sealed_otherwise(_C.sealed, key)))
            return int(found.scalar_one())

    async def reseal(self, row: StaleRow, sealed: Mapping[Place, str]) -> bool:
        """Replace a sealed value by the same under another key; False when it is another by now."""
        ((place, value),) = sealed.items()
        return await self._changed(update(vault).where(_C.id == row.id, _C.sealed == row.sealed[place]).values(sealed=value))

    async def lead(self, row: Kept, destination: str) -> None:
        """Keep where a value may be sent that was given before that was kept."""
        known = update(vault).where(_C.id == row.id, _C.version == row.version, _C.destination.is_(None))
        await self._changed(known.values(destination=destination))

    async def _changed(self, statement: Executable) -> bool:
        async with transaction(self._engine) as connection:
            return (await connection.execute(statement)).rowcount > 0

    async def _all(self, condition: ColumnElement[bool], order: UnaryExpression[Any], limit: int) -> list[Kept]:
        async with transaction(self._engine) as connection:
            rows = await connection.execute(select(vault).where(condition).order_by(order).limit(limit))
            return [Kept(**row) for row in rows.mappings()]


def sealed_otherwise(column: ColumnElement[Any], key: str) -> ColumnElement[bool]:
    """Return whether there is a value that another key seals than the one of this id."""
    return (column != "") & ~column.startswith(f"v1.{key}.", autoescape=True)


def _first(rows: Sequence[Any]) -> Kept | None:
    return Kept(**rows[0]) if rows else None


def _values(row: Kept) -> Mapping[str, Any]:
    return msgspec.structs.asdict(row)
