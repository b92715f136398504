"""Publishes the messages of the outbox: at once, and after a crash or an outage by a sweep."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from services.oauth.token_store import OutboxRow, TokenStore
from shared import aggregate
from shared.bus import Bus
from shared.commit import Refused
from shared.envelope import Sealed
from shared.errors import MillraceError
from shared.leader import lead
from shared.messages import DECLARATIONS, Message
from shared.pull import StreamError
from shared.values import fitted

EVERY = 3.0
AT_ONCE = 100

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
        except (MillraceError, Refused, StreamError) as error:
            _log.warning("connection.not_announced", connection=connection, reason=str(error))

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
        for row in rows:
            await self._one(row)
            await self._tokens.published(row.position)

    async def _one(self, row: OutboxRow) -> None:
        declared, kind = DECLARATIONS[row.type]
        sealed = self._bus.seal(fitted(row.data, kind), org=row.org, id=row.id)

        async def missing(last: aggregate.Stored | None) -> Sealed[Message] | None:
            return None if last is not None and last.envelope.id == row.id else sealed

        client = self._bus.client
        await aggregate.advance(self._bus, lambda: aggregate.present(client, declared.noun, row.connection), missing, resent=True)
