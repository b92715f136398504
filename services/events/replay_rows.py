"""Rows of replays: made of their messages, read for questions and by what carries them out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, RowMapping, Select, Text, all_, func, literal_column, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncEngine

from services.events.store import in_turns
from services.events.tables import replay
from shared.db import transaction
from shared.messages import ReplayEnded, ReplayProgressed, ReplayRequested
from shared.projected import Recorded
from shared.statements import Compiled, Statement, given, inserted, overwriting, parameter

_P = replay.c
RUNNING = "running"
_BEGUN = [column.name for column in _P if column.name not in {"replayed", "skipped", "failed", "ended_at"}]
_BEGIN = Compiled(overwriting(inserted(replay, *_BEGUN), *_BEGUN))
_COUNTS = ("status", "replayed", "skipped", "failed", "ended_at")
_GIVEN = given(_P.id, *(_P[name] for name in _COUNTS))
_COUNT = Compiled(update(replay).where(_P.id == _GIVEN.c.id).values({name: _GIVEN.c[name] for name in _COUNTS}))
_GOING_ON = Compiled(
    select(replay)
    .where(
        _P.id.in_(
            in_turns(_P.id, _P.org, _P.requested_at)
            .where(_P.status == literal_column(f"'{RUNNING}'"), _P.id != all_(parameter("besides", ARRAY(Text))))
            .limit(parameter("limit", BigInteger))
        )
    )
    .order_by(_P.requested_at)
)


class ReplayRows:
    """Reads of replays. Raises `Unavailable` when the database is away."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def get(self, org: str, id_: str) -> RowMapping | None:
        """Return one replay of an organization."""
        rows = await self._all(select(replay).where(_P.org == org, _P.id == id_))
        return rows[0] if rows else None

    async def page(self, org: str, before: tuple[datetime, str] | None, limit: int) -> list[RowMapping]:
        """Return replays of an organization, newest first, before (requested_at, id)."""
        statement = select(replay).where(_P.org == org).order_by(_P.requested_at.desc(), _P.id.desc()).limit(limit)
        return await self._all(statement if before is None else statement.where(tuple_(_P.requested_at, _P.id) < before))

    async def running(self, limit: int, *, besides: Collection[str] = ()) -> list[RowMapping]:
        """Return replays that go on, besides some, those of each organization in turn, oldest first."""
        return list(await _GOING_ON(besides=list(besides), limit=limit).read(self._engine))

    async def running_of(self, org: str) -> int:
        """Return how many replays of an organization go on."""
        async with transaction(self._engine) as connection:
            found = await connection.execute(select(func.count()).where(_P.org == org, _P.status == RUNNING))
            return int(found.scalar_one())

    async def _all(self, statement: Select[Any]) -> list[RowMapping]:
        async with transaction(self._engine) as connection:
            return list((await connection.execute(statement)).mappings().all())


def replay_statements(batch: Sequence[Recorded]) -> list[Statement]:
    """Return the statements of the messages of replays among those of their stream, in order."""
    return [made for at in batch if (made := _statement(at)) is not None]


def _statement(at: Recorded) -> Statement | None:
    message = at.message
    if isinstance(message, ReplayRequested):
        names = ("since", "until")
        moments = {name: datetime.fromisoformat(getattr(message, name)) for name in names}
        fields = {
            name: getattr(message, name) for name in ("source", "source_name", "type", "everything", "rate", "total", "actor")
        }
        row = {"id": message.replay, "org": at.envelope.org, "status": RUNNING, "requested_at": at.envelope.time}
        return _BEGIN.of([row | moments | fields | {"delivery_status": message.status}])
    if isinstance(message, ReplayProgressed | ReplayEnded):
        is_over = isinstance(message, ReplayEnded)
        row = {name: getattr(message, name) for name in ("replayed", "skipped", "failed")}
        status = message.outcome if isinstance(message, ReplayEnded) else RUNNING
        return _COUNT.of([row | {"id": message.replay, "status": status, "ended_at": at.envelope.time if is_over else None}])
    return None
