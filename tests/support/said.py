"""Messages of what became of the events of a delivery."""

from __future__ import annotations

import msgspec

from shared.messages import EventAccepted, EventFiltered, EventRouted, EventUnroutable

Said = EventAccepted | EventRouted | EventFiltered | EventUnroutable


def accepted(number: int = 0, **more: object) -> EventAccepted:
    made = EventAccepted(
        source="s",
        source_name="repo",
        event="e",
        delivery="d",
        type="push",
        headers={},
        received_at="2026-01-01T00:00:00Z",
        number=number,
    )
    return msgspec.structs.replace(made, **more)


def routed(subscription: str, run: str, number: int = 0) -> EventRouted:
    return EventRouted(
        source="s", event="e", delivery="d", subscription=subscription, subscription_name=subscription, workflow="w", run=run,
        number=number,
    )  # fmt: skip


def filtered(subscription: str | None, *, failed: bool = False) -> EventFiltered:
    reason = f"{subscription} failed" if failed else f"{subscription} filtered"
    return EventFiltered(source="s", event="e", delivery="d", subscription=subscription, reason=reason, failed=failed)


def unroutable(subscription: str) -> EventUnroutable:
    return EventUnroutable(
        source="s", event="e", delivery="d", subscription=subscription, workflow="w", reason=f"no {subscription}"
    )
