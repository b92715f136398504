"""When each key was last used, to a minute or so: written together now and then, never by a request."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import UTC, datetime

import structlog
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.identity import Keys
from services.gateway.tables import key_use
from shared.db import transaction
from shared.errors import Unavailable

EVERY = 60.0

_log = structlog.get_logger()


class KeyUse:
    """The times of all keys: those that are written, and those that this gateway knows of."""

    def __init__(self, engine: AsyncEngine, keys: Keys) -> None:
        self._engine = engine
        self._keys = keys

    async def run(self) -> None:
        """Write for ever."""
        while True:
            await asyncio.sleep(EVERY)
            await self.write()

    async def write(self) -> None:
        """Write what is new; where the database is away it stays for the next time."""
        used, self._keys.used = self._keys.used, {}
        if not used:
            return
        made = insert(key_use).values([{"id": id_, "used_at": _moment(at)} for id_, at in sorted(used.items())])
        later = func.greatest(key_use.c.used_at, made.excluded.used_at)
        try:
            async with transaction(self._engine) as connection:
                await connection.execute(made.on_conflict_do_update(index_elements=["id"], set_={"used_at": later}))
        except Unavailable as error:
            self._keys.used = used | self._keys.used
            _log.warning("key_use.interrupted", reason=error.detail)

    async def last(self, ids: Collection[str]) -> dict[str, datetime]:
        """Return when keys were last used, by id; one statement."""
        async with transaction(self._engine) as connection:
            rows = (await connection.execute(select(key_use).where(key_use.c.id.in_(ids)))).all()
        written: dict[str, datetime] = {row.id: row.used_at for row in rows}
        known = {id_: _moment(self._keys.used[id_]) for id_ in ids if id_ in self._keys.used}
        return written | {id_: max(at, written.get(id_, at)) for id_, at in known.items()}


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
