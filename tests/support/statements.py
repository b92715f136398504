"""The statements that are run, counted: a request costs a bounded number of them, a list as many for many items as for one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import patch

import asyncpg
from asyncpg.connection import LoggedQuery
from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine

from shared import tracing
from shared.traceparent import parsed
from tests.support.inside import eventually

_BOUNDS = ("BEGIN", "COMMIT", "ROLLBACK")


@contextlib.asynccontextmanager
async def counting(engine: AsyncEngine) -> AsyncIterator[list[str]]:
    """Collect the statements that are run within the block, by the engine and by the driver alone."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        seen.append(statement)

    def logged(query: LoggedQuery) -> None:
        # Those of the engine are prepared, of which the driver logs only where transactions begin and end.
        if not query.query.startswith(_BOUNDS):
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


class Requests:
    """What each request had services of this process ask the database, by the place in a trace that its answer names.

    What is done because of the messages of a request is no part of it: consumers and projections do that in their own time.
    """

    def __init__(self) -> None:
        self._ended: dict[int, tracing.Span] = {}
        self._run: list[tuple[tracing.Span, str]] = []

    def end(self, span: tracing.Span) -> None:
        """Take a span that has ended."""
        self._ended[span.context.span] = span

    def run(self, statement: str) -> None:
        """Take a statement that is run here and now."""
        if (span := tracing.current()) is not None and not statement.startswith(_BOUNDS):
            self._run.append((span, statement))

    async def of(self, traceresponse: str) -> list[str]:
        """Return the statements of the request that was answered with this header."""
        context = parsed(traceresponse)
        assert context is not None

        async def all_ended() -> bool:
            spans = [span for span, _ in self._run if span.context.trace == context.trace]
            return all(self._above(span)[1] for span in spans)

        # The driver logs in the turn after, and a question's span ends after its answer has left.
        await asyncio.sleep(0)
        await eventually(all_ended)
        return [statement for span, statement in self._run if context.span in self._above(span)[0]]

    def _above(self, span: tracing.Span) -> tuple[set[int], bool]:
        """Return the spans that a span is a part of, up to a message, and whether all of them have ended."""
        found = {span.context.span}
        while span.kind != "consumer" and span.parent is not None:
            found.add(span.parent.span)
            if span.parent.span not in self._ended:
                return found, False
            span = self._ended[span.parent.span]
        return found, True


@contextlib.asynccontextmanager
async def requests() -> AsyncIterator[Requests]:
    """Trace all that services do which are started within the block, in this process, and collect statements by request."""
    found = Requests()
    connect = asyncpg.connect

    async def connected(*arguments: Any, **options: Any) -> Any:
        connection = await connect(*arguments, **options)
        connection.add_query_logger(lambda query: found.run(query.query))
        return connection

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        found.run(statement)

    tracing.start(tracing.Tracer(found.end, lambda _trace: True, lambda _parent: True))
    event.listen(Engine, "before_cursor_execute", note)
    try:
        with patch.object(asyncpg, "connect", connected):
            yield found
    finally:
        event.remove(Engine, "before_cursor_execute", note)
        tracing.start(None)
