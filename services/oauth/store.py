"""The connections' SQL: one method, one statement, one intention."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.oauth.domain import PLATFORM, Connection
from shared.db import transaction

_FIELDS = [field.name for field in msgspec.structs.fields(Connection)]
_COLUMNS = ", ".join(_FIELDS)


class Store:
    """Each method is a transaction of its own. Raises `Unavailable` when the database is away."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def find(self, org: str, name: str) -> Connection | None:
        """Return the organization's connection of that name, also one that is being revoked."""
        return await self._one(f"SELECT {_COLUMNS} FROM connection WHERE org = :org AND name = :name", org=org, name=name)

    async def usable(self, org: str, name: str) -> Connection | None:
        """Return the connection that serves the organization: its own, else the platform's; none that is being revoked."""
        return await self._one(
            f"SELECT {_COLUMNS} FROM connection WHERE name = :name AND org IN (:org, :platform) AND NOT revoking"
            " ORDER BY (org = :org) DESC LIMIT 1",
            org=org,
            name=name,
            platform=PLATFORM,
        )

    async def page(self, org: str, *, after: str, name: str | None, limit: int) -> list[Connection]:
        """Return connections by name, those after `after`."""
        return await self._all(
            f'SELECT {_COLUMNS} FROM connection WHERE org = :org AND name COLLATE "C" > :after'
            " AND (CAST(:name AS text) IS NULL OR name = CAST(:name AS text)) AND NOT revoking"
            ' ORDER BY name COLLATE "C" LIMIT :limit',
            org=org,
            after=after,
            name=name,
            limit=limit,
        )

    async def add(self, connection: Connection) -> bool:
        """Insert a connection; False when there is one of that name, or of that id, by now."""
        values = ", ".join(f":{name}" for name in _FIELDS)
        return await self._changed(
            f"INSERT INTO connection ({_COLUMNS}) VALUES ({values}) ON CONFLICT DO NOTHING",
            **msgspec.structs.asdict(connection),
        )

    async def replace(self, connection: Connection) -> bool:
        """Replace the credential of the version before; False when that version is not there any more."""
        return await self._changed(
            "UPDATE connection SET grant_kind = :grant_kind, sealed = :sealed, version = :version, announced = false,"
            " actor = :actor, last_command = :last_command, updated_at = :updated_at"
            " WHERE id = :id AND version = :version - 1 AND NOT revoking",
            **msgspec.structs.asdict(connection),
        )

    async def mark_revoking(self, connection: Connection, *, actor: str, command: str, now: datetime) -> bool:
        """Mark a connection as about to be deleted; False when it has changed since it was read."""
        return await self._changed(
            "UPDATE connection SET revoking = true, announced = false, actor = :actor, last_command = :command,"
            " updated_at = :now WHERE id = :id AND version = :version AND NOT revoking",
            id=connection.id,
            version=connection.version,
            actor=actor,
            command=command,
            now=now,
        )

    async def mark_announced(self, connection: Connection) -> None:
        """Note that the bus knows this very version."""
        await self._changed(
            "UPDATE connection SET announced = true WHERE id = :id AND version = :version AND NOT revoking",
            id=connection.id,
            version=connection.version,
        )

    async def delete_revoked(self, connection: Connection, now: datetime) -> None:
        """Delete a connection whose revocation the bus knows, and remember the commands that made and removed it."""
        await self._changed(
            "WITH gone AS (DELETE FROM connection WHERE id = :id AND revoking RETURNING first_command, last_command)"
            " INSERT INTO done_command (id, removed, at)"
            " SELECT first_command, false, CAST(:now AS timestamptz) FROM gone"
            " UNION ALL SELECT last_command, true, CAST(:now AS timestamptz) FROM gone"
            " ON CONFLICT DO NOTHING",
            id=connection.id,
            now=now,
        )

    async def done(self, command: str) -> bool | None:
        """Return None for a command that is not remembered; else whether it removed its connection (or made it)."""
        async with transaction(self._engine) as connection:
            found = await connection.execute(text("SELECT removed FROM done_command WHERE id = :id"), {"id": command})
            removed: bool | None = found.scalar_one_or_none()
            return removed

    async def forget_commands(self, before: datetime) -> None:
        """Forget commands that were carried out before that moment: nobody sends them again."""
        await self._changed("DELETE FROM done_command WHERE at < :before", before=before)

    async def unannounced(self, before: datetime, limit: int) -> list[Connection]:
        """Return connections whose state the bus does not know, unchanged since `before`, oldest first."""
        return await self._all(
            f"SELECT {_COLUMNS} FROM connection WHERE NOT announced AND updated_at < :before ORDER BY updated_at LIMIT :limit",
            before=before,
            limit=limit,
        )

    async def _changed(self, statement: str, **values: Any) -> bool:
        async with transaction(self._engine) as connection:
            return (await connection.execute(text(statement), values)).rowcount > 0

    async def _one(self, statement: str, **values: Any) -> Connection | None:
        found = await self._all(statement, **values)
        return found[0] if found else None

    async def _all(self, statement: str, **values: Any) -> list[Connection]:
        async with transaction(self._engine) as connection:
            rows = await connection.execute(text(statement), values)
            return [Connection(**row) for row in rows.mappings()]
