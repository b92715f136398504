"""Publishes the state of rows: at once, and after a crash or an outage by a sweep."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from services.oauth.domain import Kept, announcement
from services.oauth.store import KeptStore
from shared import aggregate
from shared.bus import Bus
from shared.commit import Refused
from shared.envelope import Sealed, utc_now
from shared.errors import MillraceError
from shared.leader import lead
from shared.messages import Message
from shared.pull import StreamError

# Rows younger than this are being announced by their writer.
GRACE = timedelta(seconds=2)
EVERY = 3.0
AT_ONCE = 100
# A command is sent again within minutes; a day leaves room for a repair by an operator in between.
REMEMBERED = timedelta(days=1)

Ending = Callable[[Kept], Awaitable[Callable[[], None]]]

_log = structlog.get_logger()


class Announcer:
    """Publishes the state of rows as the aggregate of their noun and id.

    Everything here may be done twice, by any replica: ids are the same every time.
    """

    def __init__(self, bus: Bus, store: KeptStore, ending: Ending) -> None:
        """Publish to `bus`; `ending` is called for a row that is about to be deleted, and what it returns is called after that."""
        self._bus = bus
        self._store = store
        self._ending = ending

    async def announce(self, row: Kept) -> None:
        """Publish the row's state and mark it; one that is being revoked is deleted then.

        Raises `Conflict`, `Unavailable`: the row is safe then, and the sweep announces it.
        """
        message, id_ = announcement(row)
        sealed = self._bus.seal(message, org=row.org, id=id_, correlation=row.last_command)

        async def missing(last: aggregate.Stored | None) -> Sealed[Message] | None:
            return None if last is not None and last.envelope.id == id_ else sealed

        await aggregate.advance(self._bus, lambda: aggregate.present(self._bus.client, row.noun, row.id), missing, resent=True)
        if row.revoking:
            ended = await self._ending(row)
            await self._store.delete_revoked(row, utc_now())
            ended()
        else:
            await self._store.mark_announced(row)

    async def sweep(self, url: str) -> None:
        """Announce for ever the rows whose writer could not. Of several replicas, which share the database at `url`, one does."""
        await lead(
            self.round,
            url=url,
            service="oauth",
            lock="oauth.sweep",
            pause=EVERY,
            full=AT_ONCE,
            first=0.0,
            interrupted="vault.sweep_interrupted",
        )

    async def round(self) -> int:
        """Announce some of these rows, and forget old commands; returns how many could be announced. Raises `Unavailable`."""
        announced = [await self._late(row) for row in await self._store.unannounced(utc_now() - GRACE, AT_ONCE)]
        await self._store.forget_commands(utc_now() - REMEMBERED)
        return sum(announced)

    async def _late(self, row: Kept) -> bool:
        try:
            await self.announce(row)
        except (MillraceError, Refused, StreamError) as error:
            # One that cannot be published must not keep the others from it.
            _log.warning(f"{row.noun}.not_announced", id=row.id, reason=str(error))
        except Exception:
            _log.exception(f"{row.noun}.not_announced", id=row.id)
        else:
            _log.info(f"{row.noun}.announced_late", id=row.id, version=row.version)
            return True
        return False
