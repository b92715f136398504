"""Asks the bus whether a run goes on."""

from __future__ import annotations

from typing import Literal

from nats.aio.client import Client

from shared import aggregate
from shared.messages.run import RunCancelRequested, RunSignalled
from shared.runs import RunEnd


async def end_of(client: Client, run: str) -> RunEnd | Literal["goes_on"] | None:
    """Return the end of a run by its messages; None where there are none: those of one that ended long ago are purged.

    Raises `Unavailable`.
    """
    last = await aggregate.last(client, "run", run)
    if last is None:
        return None
    message = last.message()
    if isinstance(message, RunCancelRequested | RunSignalled):
        # These two come from outside, and may have come after the end.
        async for one in aggregate.history(client, "run", run):
            if isinstance(found := one.message(), RunEnd):
                return found
    return message if isinstance(message, RunEnd) else "goes_on"
