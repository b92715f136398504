"""The SQL of rows with something sealed, connections and secrets: one method, one statement, one intention."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.oauth.domain import PLATFORM, K
from shared.db import transaction

# What a replacement leaves as it is.
_FIRST = ("id", "org", "name", "revoking", "first_command", "created_at")


class KeptStore(Generic[K]):
    """One table of rows of one kind. Each method is a transaction of its own. Raises `Unavailable` when the database is away."""

    def __init__(self, engine: AsyncEngine, table: str, row: type[K]) -> None:
        self._engine = engine
        self._table = table
        self._row = row
        self._fields = [field.name for field in msgspec.structs.fields(row)]
        self._select = f"SELECT {', '.join(self._fields)} FROM {table}"

    async def find(self, org: str, name: str) -> K | None:
        """Return the organization's row of that name, also one that is being revoked."""
        return await self._one(f"{self._select} WHERE org = :org AND name = :name", org=org, name=name)

    async def usable(self, org: str, name: str) -> K | None:
        """Return the row that serves the organization: its own, else the platform's; none that is being revoked."""
        return await self._one(
            f"{self._select} WHERE name = :name AND org IN (:org, :platform) AND NOT revoking ORDER BY (org = :org) DESC LIMIT 1",
            org=org,
            name=name,
            platform=PLATFORM,
        )

    async def page(self, org: str, *, after: str, name: str | None, limit: int) -> list[K]:
        """Return rows by name, those after `after`."""
        return await self._all(
            f'{self._select} WHERE org = :org AND name COLLATE "C" > :after'
            " AND (CAST(:name AS text) IS NULL OR name = CAST(:name AS text)) AND NOT revoking"
            ' ORDER BY name COLLATE "C" LIMIT :limit',
            org=org,
            after=after,
            name=name,
            limit=limit,
        )

    async def add(self, row: K) -> bool:
        """Insert a row; False when there is one of that name, or of that id, by now."""
        columns, values = ", ".join(self._fields), ", ".join(f":{name}" for name in self._fields)
        return await self._changed(
            f"INSERT INTO {self._table} ({columns}) VALUES ({values}) ON CONFLICT DO NOTHING",
            **msgspec.structs.asdict(row),
        )

    async def replace(self, row: K) -> bool:
        """Replace what is sealed in the version before; False when that version is not there any more."""
        changes = ", ".join(f"{name} = :{name}" for name in self._fields if name not in _FIRST)
        return await self._changed(
            f"UPDATE {self._table} SET {changes} WHERE id = :id AND version = :version - 1 AND NOT revoking",
            **msgspec.structs.asdict(row),
        )

    async def mark_revoking(self, row: K, *, actor: str, command: str, now: datetime) -> bool:
        """Mark a row as about to be deleted; False when it has changed since it was read."""
        return await self._changed(
            f"UPDATE {self._table} SET revoking = true, announced = false, actor = :actor, last_command = :command,"
            " updated_at = :now WHERE id = :id AND version = :version AND NOT revoking",
            id=row.id,
            version=row.version,
            actor=actor,
            command=command,
            now=now,
        )

    async def mark_announced(self, row: K) -> None:
        """Note that the bus knows this very version."""
        await self._changed(
            f"UPDATE {self._table} SET announced = true WHERE id = :id AND version = :version AND NOT revoking",
            id=row.id,
            version=row.version,
        )

    async def delete_revoked(self, row: K, now: datetime) -> None:
        """Delete a row whose removal the bus knows, and remember the commands that made and removed it."""
        await self._changed(
            f"WITH gone AS (DELETE FROM {self._table} WHERE id = :id AND revoking RETURNING first_command, last_command)"
            " INSERT INTO done_command (id, removed, at)"
            " SELECT first_command, false, CAST(:now AS timestamptz) FROM gone"
            " UNION ALL SELECT last_command, true, CAST(:now AS timestamptz) FROM gone"
            " ON CONFLICT DO NOTHING",
            id=row.id,
            now=now,
        )

    async def done(self, command: str) -> bool | None:
        """Return None for a command that is not remembered; else whether it removed its row (or made it)."""
        async with transaction(self._engine) as connection:
            found = await connection.execute(text("SELECT removed FROM done_command WHERE id = :id"), {"id": command})
            removed: bool | None = found.scalar_one_or_none()
            return removed

    async def forget_commands(self, before: datetime) -> None:
        """Forget commands that were carried out before that moment: nobody sends them again."""
        await self._changed("DELETE FROM done_command WHERE at < :before", before=before)

    async def unannounced(self, before: datetime, limit: int) -> list[K]:
        """Return rows whose state the bus does not know, unchanged since `before`, oldest first."""
        return await self._all(
            f"{self._select} WHERE NOT announced AND updated_at < :before ORDER BY updated_at LIMIT :limit",
            before=before,
            limit=limit,
        )

    async def by_id(self, after: str, limit: int) -> list[K]:
        """Return rows by id, those after `after`, of every organization."""
        return await self._all(f"{self._select} WHERE id > :after ORDER BY id LIMIT :limit", after=after, limit=limit)

    async def reseal(self, row: K, sealed: str) -> bool:
        """Replace what is sealed by the same under another key; False when it is another by now."""
        return await self._changed(
            f"UPDATE {self._table} SET sealed = :new WHERE id = :id AND sealed = :old", id=row.id, old=row.sealed, new=sealed
        )

    async def _changed(self, statement: str, **values: Any) -> bool:
        async with transaction(self._engine) as connection:
            return (await connection.execute(text(statement), values)).rowcount > 0

    async def _one(self, statement: str, **values: Any) -> K | None:
        found = await self._all(statement, **values)
        return found[0] if found else None

    async def _all(self, statement: str, **values: Any) -> list[K]:
        async with transaction(self._engine) as connection:
            rows = await connection.execute(text(statement), values)
            return [self._row(**row) for row in rows.mappings()]
