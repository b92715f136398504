"""Messages of the events service about deliveries that are routed again, many at a time."""

from __future__ import annotations

from shared.messages.declaration import Message, message


@message("replay.requested", key="replay", by="events", creates=True)
class ReplayRequested(Message, frozen=True, kw_only=True):
    """Deliveries received from `since` until before `until` (RFC 3339) are to be routed again, `rate` a second, oldest first.

    `source` (an id), `status` and `type` narrow which, of `total` there were when it was asked for. `everything`: also to the
    subscriptions whose run has succeeded or goes on.
    """

    replay: str
    actor: str
    since: str
    until: str
    rate: float
    total: int
    source: str | None = None
    source_name: str | None = None
    status: str | None = None
    type: str | None = None
    everything: bool = False


class ReplayCounts(Message, frozen=True, kw_only=True):
    """How many deliveries were routed again so far, had no run to be repeated, and could not be: all counts of the whole replay.

    Received at `after` (RFC 3339), and with an id up to `after_id`, was the last of them.
    """

    replay: str
    after: str
    after_id: str
    replayed: int = 0
    skipped: int = 0
    failed: int = 0


@message("replay.progressed", key="replay", by="events")
class ReplayProgressed(ReplayCounts, frozen=True, kw_only=True):
    """Some more deliveries are behind it."""


@message("replay.ended", key="replay", by="events")
class ReplayEnded(ReplayCounts, frozen=True, kw_only=True):
    """All are behind it (`outcome` is done), or `actor` has cancelled the rest (cancelled)."""

    outcome: str
    actor: str | None = None
