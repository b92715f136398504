"""The statements that are run, counted: a list is to cost a bounded number of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from asyncpg.connection import LoggedQuery
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine


@contextlib.asynccontextmanager
async def counting(engine: AsyncEngine) -> AsyncIterator[list[str]]:
    """Collect the statements that are run within the block, by the engine and by the driver alone."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        seen.append(statement)

    def logged(query: LoggedQuery) -> None:
        # Those of the engine are prepared, of which the driver logs only where transactions begin and end.
        if not query.query.startswith(("BEGIN", "COMMIT", "ROLLBACK")):
            seen.append(query.query)

    def lent(connection: Any, *_rest: Any) -> None:
        connection.driver_connection.add_query_logger(logged)

    def back(connection: Any, *_rest: Any) -> None:
        if connection is not None:
            connection.driver_connection.remove_query_logger(logged)

    pool, heard = engine.sync_engine.pool, (("checkout", lent), ("checkin", back))
    event.listen(engine.sync_engine, "before_cursor_execute", note)
    for name, hear in heard:
        event.listen(pool, name, hear)
    try:
        yield seen
        # The driver logs in the turn after.
        await asyncio.sleep(0)
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)
        for name, hear in heard:
            event.remove(pool, name, hear)
