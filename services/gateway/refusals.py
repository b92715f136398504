"""Publishes which webhooks the gateway had no room for."""

from __future__ import annotations

import structlog

from services.gateway.admission import WebhookEndpoint
from shared.bus import Bus
from shared.commit import Refused
from shared.crowds import Crowds
from shared.errors import MillraceError
from shared.messages import WebhookRefused

_log = structlog.get_logger()


class Refusals:
    """Publishes `WebhookRefused`, at most one a second for each source; logs one that cannot be published."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._crowds: Crowds[tuple[WebhookEndpoint, str, str | None]] = Crowds(self._publish)

    def record(self, endpoint: WebhookEndpoint, reason: str, remote: str | None) -> None:
        """Publish in the background that a webhook of `remote` was refused."""
        self._crowds.record((endpoint.source, reason), (endpoint, reason, remote))

    async def finish(self) -> None:
        """Publish waiting refusals; for the end of the service."""
        await self._crowds.finish()

    async def _publish(self, refusal: tuple[WebhookEndpoint, str, str | None], count: int) -> None:
        endpoint, reason, remote = refusal
        message = WebhookRefused(source=endpoint.source, adapter=endpoint.adapter, reason=reason, count=count, remote=remote)
        try:
            await self._bus.publish(self._bus.seal(message, org=endpoint.org))
        except (MillraceError, Refused) as error:
            _log.warning("webhook.refusal_lost", source=endpoint.source, count=count, reason=str(error))
