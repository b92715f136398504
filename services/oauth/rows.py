"""The variables' SQL: one method, one statement, one intention."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.oauth.domain import PLATFORM
from shared.db import transaction
from shared.messages import VariableChanged
from shared.statements import Statement

_SELECT = "SELECT org, name, value, created_at, updated_at, version FROM variable"


class Variables:
    """Reads for questions. Raises `Unavailable` when the database is away."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def usable(self, org: str, name: str) -> RowMapping | None:
        """Return the variable that serves the organization: its own, else the platform's."""
        statement = _SELECT + " WHERE name = :name AND org IN (:org, :platform) ORDER BY (org = :org) DESC LIMIT 1"
        found = await self._all(statement, org=org, name=name, platform=PLATFORM)
        return found[0] if found else None

    async def page(self, org: str, *, after: str, name: str | None, limit: int) -> list[RowMapping]:
        """Return variables by name, those after `after`."""
        return await self._all(
            _SELECT + ' WHERE org = :org AND name COLLATE "C" > :after'
            " AND (CAST(:name AS text) IS NULL OR name = CAST(:name AS text))"
            ' ORDER BY name COLLATE "C" LIMIT :limit',
            org=org,
            after=after,
            name=name,
            limit=limit,
        )

    async def _all(self, statement: str, **values: Any) -> list[RowMapping]:
        async with transaction(self._engine) as connection:
            return list((await connection.execute(text(statement), values)).mappings().all())


def put_variable(org: str, message: VariableChanged, at: datetime, version: int) -> Statement:
    """Make the row of a variable what its last message says. Text, not jsonb: a value is answered as it was given."""
    statement = """
        INSERT INTO variable (org, name, value, created_at, updated_at, version) VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (org, name) DO UPDATE SET value = excluded.value, created_at = excluded.created_at,
            updated_at = excluded.updated_at, version = excluded.version
    """
    value = msgspec.json.encode(message.value).decode()
    return Statement(statement, (org, message.name, value, datetime.fromisoformat(message.created_at), at, version))


def remove_variable(org: str, name: str) -> Statement:
    """Forget a variable."""
    return Statement("DELETE FROM variable WHERE org = $1 AND name = $2", (org, name))
