"""Publishes the messages of the outbox: at once, and after a crash or an outage by a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import structlog

from services.oauth.token_store import OutboxRow, TokenStore
from shared import aggregate
from shared.bus import Bus
from shared.commit import Refused
from shared.envelope import Sealed
from shared.errors import MillraceError, Unavailable
from shared.leader import lead
from shared.messages import DECLARATIONS, Message
from shared.pull import StreamError
from shared.values import fitted

EVERY = 3.0
AT_ONCE = 100
# Seconds that a message waits which could not be published, the first time and at most.
PAUSE, LONGEST_PAUSE = 2.0, 600.0
# Connections in a row whose messages could not be published, until a round ends: it is no single message then.
MOST_FAILURES = 3

_log = structlog.get_logger()


class Outbox:
    """Publishes each message once, those of a connection in their order, whoever of several replicas does it."""

    def __init__(self, bus: Bus, tokens: TokenStore) -> None:
        self._bus = bus
        self._tokens = tokens

    async def flush(self, connection: str) -> None:
        """Publish what there is about a connection; what cannot be published now is left to the sweep."""
        try:
            await self._publish(await self._tokens.unpublished(AT_ONCE, connection))
        except MillraceError as error:
            _log.warning("connection.not_announced", connection=connection, reason=error.detail)

    async def sweep(self, url: str) -> None:
        """Publish for ever what was left. Of several replicas, which share the database at `url`, one does."""
        await lead(
            self._round,
            url=url,
            service="oauth",
            lock="oauth.outbox",
            pause=EVERY,
            full=AT_ONCE,
            first=0.0,
            interrupted="outbox.interrupted",
        )

    async def _round(self) -> int:
        rows = await self._tokens.unpublished(AT_ONCE)
        await self._publish(rows)
        return len(rows)

    async def _publish(self, rows: Sequence[OutboxRow]) -> None:
        """Publish these; one that cannot be keeps back those of its connection only. Raises `Unavailable` where none can be."""
        failed: set[str] = set()
        in_a_row = 0
        for row in rows:
            if row.connection in failed:
                continue
            try:
                await self._one(row)
            except (MillraceError, Refused, StreamError) as error:
                _log.warning("connection.not_announced", connection=row.connection, type=row.type, reason=str(error))
            except Exception:
                _log.exception("connection.not_announced", connection=row.connection, type=row.type)
            else:
                await self._tokens.published(row.position)
                in_a_row = 0
                continue
            failed.add(row.connection)
            pause = min(PAUSE * 2.0 ** min(row.tries, 20), LONGEST_PAUSE)
            await self._tokens.put_off(row.position, timedelta(seconds=pause))
            in_a_row += 1
            if in_a_row >= MOST_FAILURES:
                raise Unavailable("no message can be published now")

    async def _one(self, row: OutboxRow) -> None:
        declared, kind = DECLARATIONS[row.type]
        sealed = self._bus.seal(fitted(row.data, kind), org=row.org, id=row.id)

        async def missing(last: aggregate.Stored | None) -> Sealed[Message] | None:
            return None if last is not None and last.envelope.id == row.id else sealed

        client = self._bus.client
        await aggregate.advance(self._bus, lambda: aggregate.present(client, declared.noun, row.connection), missing, resent=True)
