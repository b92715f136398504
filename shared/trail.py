"""The audit trail of a service that strangers come to: every change, and every denied attempt without letting those flood it."""

from __future__ import annotations

import msgspec
import structlog

from shared.bus import Bus
from shared.commit import Refused
from shared.crowds import Crowds
from shared.errors import MillraceError
from shared.messages import Audited
from shared.values import storable

_log = structlog.get_logger()


class Trail:
    """Publishes `Audited`; one that cannot be published is logged and never costs the answer."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._refusals: Crowds[tuple[Audited, str]] = Crowds(self._counted)

    async def publish(self, audited: Audited, *, org: str) -> None:
        """Record an action; on disk when this returns, else logged."""
        try:
            await self._bus.publish(self._bus.seal(audited, org=org))
        except (MillraceError, Refused) as error:
            _log.error("audit.lost", category=audited.category, verb=audited.verb, target=audited.target, reason=str(error))

    def refused(self, audited: Audited, *, org: str) -> None:
        """Record a refusal in the background, one a second of a category, target and actor; `detail.count` is their number.

        Those of one organization: two of them may have a key of the same name, and neither is told of the other's.
        """
        kind = (audited.category, audited.target, audited.actor, org)
        self._refusals.record(kind, (audited, org), crowd=(audited.category, org))

    async def finish(self) -> None:
        """Publish waiting refusals; for the end of the service."""
        await self._refusals.finish()

    async def _counted(self, refusal: tuple[Audited, str], count: int) -> None:
        audited, org = refusal
        detail = audited.detail | {"count": count}
        await self.publish(msgspec.structs.replace(audited, target=storable(audited.target), detail=detail), org=org)
