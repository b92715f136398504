"""`python -m tests.support.dying <address>`: handles webhooks as the events service does, and dies of the source `deadly`."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from shared import suspects
from shared.bus import connected
from shared.consumer import Handler
from shared.messages import EventFiltered, WebhookReceived
from shared.service import Health
from shared.streams import WORK

DEADLY = "deadly"
DIED = 71


async def handle(message: WebhookReceived, _deps: Any) -> Any:
    """Take a moment, so that all that were delivered together are in hand when the process ends."""
    await asyncio.sleep(0.1)
    if message.source == DEADLY:
        os._exit(DIED)
    await asyncio.sleep(0.1)
    yield EventFiltered(source=message.source, event=message.delivery, delivery=message.delivery, reason="handled"), "handled"


async def nothing(_message: Any, _deps: Any) -> Any:
    """Handle no other message."""
    return
    yield


async def main(url: str) -> None:
    """Handle until the process ends."""
    suspects.UNSUSPICIOUS = 1
    handlers: dict[Any, Handler] = {message: nothing for work in WORK for message in work.messages} | {WebhookReceived: handle}
    async with connected(url, service="events", health=Health("events")) as bus:
        bus.handle(handlers, None)
        await bus.start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
