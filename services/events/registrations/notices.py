"""What senders say about registrations, among the events of their webhooks."""

from __future__ import annotations

from typing import Protocol

import msgspec

from services.events.adapters import ADAPTERS
from services.events.registrations.turn import state_of
from shared import aggregate
from shared.bus import Bus
from shared.messages import EventAccepted, RegistrationNoticed, WebhookReceived
from shared.resources.source import SourceEntry
from shared.values import at, text_of


class NoticeDeps(Protocol):
    """Dependencies of notices."""

    bus: Bus

    async def source(self, id: str) -> SourceEntry | None:  # noqa: A002 - the word of the API
        """Return a source, also a retired one's last state, or None."""


async def take_notice(event: EventAccepted, webhook: WebhookReceived, deps: NoticeDeps) -> None:
    """Record what an event says about its source's registration; most say nothing. Done again it is the same.

    What is about an earlier registration than the present one is passed over. Raises `Unavailable`, `Conflict`.
    """
    found = ADAPTERS.get(webhook.adapter)
    registering = None if found is None else found.registering
    notice = None if registering is None else registering.notices.get(event.type)
    if registering is None or notice is None or registering.noticed is None:
        return
    source = await deps.source(event.source)
    remote = text_of(at(event.data, registering.noticed.split(".")))

    if source is None:
        return

    async def decide(stored: aggregate.Stored | None) -> RegistrationNoticed | None:
        last = state_of(stored)
        if last is None or last.remote is None or last.remote != remote:
            return None
        changes = {"missed_at": event.received_at} if notice == "missed" else {"notice": notice, "due_at": event.received_at}
        return RegistrationNoticed(**(msgspec.structs.asdict(last) | changes))

    await aggregate.change(deps.bus, "registration", event.source, decide, org=source.org, command=event.event)
