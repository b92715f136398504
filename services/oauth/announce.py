"""What is in the table, said on the bus: at once, and after a crash or an outage by a sweep."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Generic

import structlog

from services.oauth.domain import K
from services.oauth.store import KeptStore
from shared import aggregate
from shared.bus import Bus
from shared.commit import Refused
from shared.envelope import Sealed
from shared.errors import MillraceError, Unavailable
from shared.messages import Message
from shared.pull import StreamError

# Rows younger than this are being announced by whoever wrote them.
GRACE = timedelta(seconds=2)
EVERY = 3.0
AT_ONCE = 100
# A command is sent again within minutes; a day leaves room for an operator who repairs something in between.
REMEMBERED = timedelta(days=1)

_log = structlog.get_logger()


class Announcer(Generic[K]):
    """Publishes the state of rows as the aggregate `noun`/id.

    Everything here may be done twice, by any replica: ids are the same every time.
    """

    def __init__(
        self,
        bus: Bus,
        store: KeptStore[K],
        now: Callable[[], datetime],
        noun: str,
        announcement: Callable[[K], tuple[Message, str]],
    ) -> None:
        self._bus = bus
        self._store = store
        self._now = now
        self._noun = noun
        self._announcement = announcement

    async def announce(self, row: K) -> None:
        """Say the row's state on the bus and mark it; one that is being revoked is deleted then.

        Raises `Conflict`, `Unavailable`: the row is safe then, and the sweep announces it.
        """
        message, id_ = self._announcement(row)
        sealed = self._bus.seal(message, org=row.org, id=id_, correlation=row.last_command)

        async def missing(last: aggregate.Stored | None) -> Sealed[Message] | None:
            return None if last is not None and last.envelope.id == id_ else sealed

        await aggregate.advance(self._bus, lambda: aggregate.present(self._bus.client, self._noun, row.id), missing, resent=True)
        if row.revoking:
            await self._store.delete_revoked(row, self._now())
        else:
            await self._store.mark_announced(row)

    async def sweep(self) -> None:
        """Announce for ever what somebody could not."""
        while True:
            try:
                for row in await self._store.unannounced(self._now() - GRACE, AT_ONCE):
                    await self._late(row)
                await self._store.forget_commands(self._now() - REMEMBERED)
            except Unavailable as error:
                _log.warning(f"{self._noun}.sweep_interrupted", reason=error.detail)
            await asyncio.sleep(EVERY)

    async def _late(self, row: K) -> None:
        try:
            await self.announce(row)
        except (MillraceError, Refused, StreamError) as error:
            # One that cannot be said must not keep the others from it.
            _log.warning(f"{self._noun}.not_announced", id=row.id, reason=str(error))
        except Exception:
            _log.exception(f"{self._noun}.not_announced", id=row.id)
        else:
            _log.info(f"{self._noun}.announced_late", id=row.id, version=row.version)
