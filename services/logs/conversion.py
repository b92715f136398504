"""Converts rows that an earlier version archived: while the service serves, the newest first."""

from __future__ import annotations

import asyncio

import asyncpg
import structlog

from services.logs import store
from services.logs.domain import Row, StreamPosition, row_of
from services.logs.lines import split
from services.logs.projections import salvaged
from services.logs.workflows import RunWorkflows
from shared.db import Connection, held_lock, naming_trouble
from shared.errors import Unavailable
from shared.health import Health

LINES, WORDS = "lines", "words"
# Rows that are converted by one transaction, and the seconds between two: new rows go first.
BATCH = 500
REST = 0.05
RETRY = 5.0

_log = structlog.get_logger()


async def convert(url: str, health: Health) -> None:
    """Convert the rows that are left, by one replica, and return; a service that stops meanwhile goes on at its next start."""
    while True:
        try:
            async with held_lock(url, "logs.conversion", service="logs") as held:
                while not held.lost.is_set():
                    with naming_trouble():
                        left = await step(held.connection) or await keep_words(held.connection)
                    health.state("conversion of the archive", f"rows before {left} are to come" if left else "over")
                    if left is None:
                        return
                    await asyncio.sleep(REST)
        except Unavailable as error:
            _log.warning("archive.conversion_interrupted", reason=str(error))
        except Exception as error:
            # Archiving and searching now do not wait for old rows.
            _log.exception("archive.conversion_failed")
            health.state("conversion of the archive", f"failed: {type(error).__name__}: {error}")
            return
        await asyncio.sleep(RETRY)


async def step(connection: Connection) -> str | None:
    """Convert the next rows: chunks of lines get rows of their lines, messages of runs their workflow. None when none is left."""
    async with connection.transaction():
        found = await store.unconverted(connection, LINES, BATCH)
        rows = [row for one in found for row in _rows(one)]
        named = await RunWorkflows().named([row for row in rows if row.line <= 0], connection)
        await store.name_workflows(connection, [row for row in named if row.workflow is not None])
        await store.hide_chunks(connection, [row for row in named if row.line < 0])
        await salvaged(connection, [row for row in rows if row.line > 0])
        return await store.move_conversion(connection, LINES, found[-1] if found else None)


async def keep_words(connection: Connection) -> str | None:
    """Write the words of the next rows as this version keeps them. None when none is left."""
    async with connection.transaction():
        found = await store.unconverted(connection, WORDS, BATCH)
        await store.keep_words(connection, [row for one in found for row in _rows(one) if row.line >= 0])
        return await store.move_conversion(connection, WORDS, found[-1] if found else None)


def _rows(one: asyncpg.Record) -> list[Row]:
    """Return the converted rows of an archived message; none for one that cannot be converted, which stays as it is."""
    try:
        return split(
            row_of(StreamPosition(one["stream"], one["incarnation"], one["seq"], one["time"], one["key"]), one["document"])
        )
    except Exception as error:
        _log.warning("archive.unreadable", stream=one["stream"], sequence=one["seq"], reason=f"{type(error).__name__}: {error}")
        return []
