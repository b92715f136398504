"""Counts the connections whose tokens need a person, or fail again and again, for those who watch the installation."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.db import transaction
from shared.errors import Unavailable

# Seconds between two looks: a token that needs somebody needs them for longer.
EVERY = 30.0
BROKEN = ("needs_reauthorization", "degraded")
_COUNTED = "SELECT status, count(*) FROM token WHERE status = ANY(:broken) GROUP BY status"

_log = structlog.get_logger()


class BrokenTokens:
    """Looks now and then; the numbers are those of all organizations."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._counted: dict[str, int] = {}

    def fact(self) -> dict[str, Any]:
        """Return how many there were at the last look, nothing before the first."""
        return self._counted

    async def watch(self) -> None:
        """Look for ever."""
        while True:
            try:
                await self.look()
            except Unavailable as error:
                _log.warning("tokens.not_counted", reason=str(error))
            await asyncio.sleep(EVERY)

    async def look(self) -> None:
        """Look once. Raises `Unavailable`."""
        async with transaction(self._engine) as connection:
            found = (await connection.execute(text(_COUNTED), {"broken": list(BROKEN)})).all()
        self._counted = dict.fromkeys(BROKEN, 0) | {str(status): int(count) for status, count in found}
