"""The registrations of sources as rows, and as they are shown."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import RowMapping, Select, and_, case, delete, func, literal_column, or_, outerjoin, select, union
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.events.registrations.plan import is_past, look_at
from services.events.store import in_turns, texts
from services.events.tables import REGISTERED, registration, resource
from shared.db import transaction
from shared.messages import (
    RegistrationBegun,
    RegistrationConfirmed,
    RegistrationFailed,
    RegistrationNoticed,
    RegistrationRemoved,
    RegistrationState,
)
from shared.projected import Projected, Recorded, one_by_one
from shared.resources.source import RegistrationStatus, RegistrationView
from shared.statements import Compiled, Statement, overwriting, parameter

_G, _R = registration.c, resource.c
_PUT = Compiled(overwriting(insert(registration), "org", "state", "look_at"))
_DELETE = Compiled(delete(registration).where(_G.source == parameter("of")))
# Sources that want to be registered.
_WANTED = and_(REGISTERED, _R.spec["enabled"].as_boolean().is_not(False))
_SHOWN = (
    *(_R.id, _G.source, _R.org, _G.org.label("its_org")),
    *(case((_WANTED, _R.version), else_=literal_column("0")).label("version"), _G.state),
)


class Watched(msgspec.Struct, frozen=True):
    """A source that wants to be registered, or is: its version, 0 where it does not want to (any more)."""

    id: str
    org: str
    version: int
    state: RegistrationState | None


def projected() -> Projected:
    """Return the projection of registrations."""
    changed = (RegistrationBegun, RegistrationConfirmed, RegistrationFailed, RegistrationNoticed)
    projections: Any = dict.fromkeys(changed, _put) | {RegistrationRemoved: _remove}
    return Projected(
        name="registrations", stream="CATALOG", apply=one_by_one(projections), tables=("registration",), filters=("registration.>",)
    )


async def watched(engine: AsyncEngine) -> list[Watched]:
    """Return everything that may be due. Raises `Unavailable`."""
    of = outerjoin(resource, registration, _R.id == _G.source, full=True)
    return await _watched(engine, select(*_SHOWN).select_from(of).where(or_(_WANTED, _G.source.is_not(None))))


async def due(
    engine: AsyncEngine,
    now: datetime,
    limit: int,
    *,
    sources: Collection[str],
    orgs: Collection[str],
    besides: Collection[str],
    without: Collection[str],
) -> tuple[list[Watched], datetime | None]:
    """Return the registrations that are due by their rows, those of each organization in turn; and when the next one is.

    So many of these, besides some sources and without some organizations; and in any case what there is of `sources` and of `orgs`.
    Raises `Unavailable`.
    """
    others = (_G.source.not_in(texts(besides)), _G.org.not_in(texts(without)))
    by_time = in_turns(_G.source, _G.org, _G.look_at).where(_G.look_at <= now, *others).limit(limit).subquery()
    of_orgs = select(_G.source).where(_G.org.in_(texts(orgs)))
    nearest = select(func.min(_G.look_at)).where(_G.look_at > now)
    async with transaction(engine) as connection:
        ids = {*sources, *(await connection.execute(union(select(by_time.c.source), of_orgs))).scalars()}
        next_at = (await connection.execute(nearest)).scalar_one()
    given = texts(ids).subquery("given")
    of = outerjoin(outerjoin(given, resource, _R.id == given.c[0]), registration, _G.source == given.c[0])
    found = select(*_SHOWN).select_from(of).where(or_(_WANTED, _G.source.is_not(None)))
    return (await _watched(engine, found) if ids else []), next_at


async def _watched(engine: AsyncEngine, found: Select[Any]) -> list[Watched]:
    async with transaction(engine) as connection:
        rows = (await connection.execute(found)).mappings()
        return [Watched(row["id"] or row["source"], row["org"] or row["its_org"], row["version"] or 0, _state(row)) for row in rows]


async def shown(engine: AsyncEngine, ids: Collection[str], now: datetime) -> dict[str, RegistrationView]:
    """Return the registrations of these sources that there are. Raises `Unavailable`."""
    async with transaction(engine) as connection:
        rows = (await connection.execute(select(_G.source, _G.state).where(_G.source.in_(ids)))).mappings()
        return {row["source"]: _view(_state(row), now) for row in rows}


def _state(row: RowMapping) -> RegistrationState:
    return None if row["state"] is None else msgspec.convert(row["state"], RegistrationState)  # type: ignore[return-value]


def _view(state: RegistrationState, now: datetime) -> RegistrationView:
    return RegistrationView(
        status=_status(state, now),
        remote=state.remote,
        expires_at=state.expires_at,
        error=state.error,
        tries=state.tries,
        next_at=state.due_at,
        missed_at=state.missed_at,
    )


def _status(state: RegistrationState, now: datetime) -> RegistrationStatus:
    if state.error is not None:
        return "failing"
    if state.remote is None:
        return "creating"
    return "expired" if is_past(state.expires_at, now) else "active"


async def _put(message: RegistrationState, at: Recorded) -> Statement:
    state = msgspec.json.encode(message).decode()
    return _PUT(source=message.source, org=at.envelope.org, state=state, look_at=look_at(message))


async def _remove(message: RegistrationState, _at: Recorded) -> Statement:
    return _DELETE(of=message.source)
