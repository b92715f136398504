"""Decides which held events of a group are due, and when to look again. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from shared.resources.subscription import Subscription

# The bus keeps events for seven days, and with them the inputs of those that are held.
LONGEST_HELD = timedelta(days=6, hours=12)
# Of one look: each becomes a message or two.
MOST_AT_ONCE = 200

LastRun = Literal["none", "goes_on", "failed", "ended"]


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """An event that a subscription holds; `sequence` is where its message is in EVENTS, `run_org` whose its run will be."""

    event: str
    subscription: str
    name: str
    workflow: str
    org: str
    source: str
    delivery: str
    number: int
    received_at: datetime
    held_at: datetime
    sequence: int
    run_org: str = ""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The last event of a group that was released, with its run; `free_at` is when the rate is as good as unused."""

    run: str | None = None
    delivery: str | None = None
    number: int | None = None
    free_at: datetime | None = None


class HeldEvents(msgspec.Struct, frozen=True, kw_only=True):
    """The held events of a group: the `first` of them in the order in which they were received, and the `newest`.

    `since` and `until` are when the first and the last of all of them began to be held, `earliest` and `latest` their sequences:
    known of those that are debounced only, since others may hold very many.
    """

    first: Sequence[Held]
    newest: Held
    since: datetime = datetime.max.replace(tzinfo=UTC)
    until: datetime = datetime.max.replace(tzinfo=UTC)
    earliest: int = 0
    latest: int = 0


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The events to be released, each with the new `free_at`, those that are dropped with the reason, and what comes then.

    `look_at` is the time of the next look, None where another message leads to it; `soon`: there is more to be done at once, or
    in a moment.
    """

    released: list[tuple[Held, datetime | None]] = msgspec.field(default_factory=list)
    dropped: list[tuple[Held, str]] = msgspec.field(default_factory=list)
    expired: list[Held] = msgspec.field(default_factory=list)
    look_at: datetime | None = None
    soon: bool = False


def holds(spec: Subscription) -> bool:
    """Return whether a subscription's events may have to wait for others."""
    return spec.ordering is not None or spec.rate is not None or spec.debounce is not None


def decide(
    spec: Subscription | None,
    group: Group,
    waiting: HeldEvents,
    last_run: LastRun,
    settled_before: datetime | None,
    now: datetime,
    *,
    begun: Held | None = None,
) -> Decision:
    """Return what becomes of a group's held events now. `spec` is None where the subscription was removed.

    Of events that were received before `settled_before` (None: of all) no other one of their source can come before them any more.
    `begun` is one whose run a look has asked for already, which was cut off then.
    """
    if spec is None:
        reason = "the subscription was removed while it held this event"
        return Decision(dropped=[(one, reason) for one in waiting.first], soon=True)
    expired = [one for one in waiting.first if one.held_at + LONGEST_HELD < now]
    if expired:
        return Decision(expired=expired, soon=True)
    if begun is not None:
        return Decision(released=[(begun, _free_at(spec, group.free_at, now))], soon=True)
    candidates = list(waiting.first)
    if spec.debounce is not None:
        due = _quiet_at(spec, spec.debounce, waiting)
        if now < due:
            return Decision(look_at=due)
        candidates = [waiting.newest]
    if spec.ordering is not None:
        head = candidates[0]
        if last_run == "goes_on" or (last_run == "failed" and spec.on_failure == "block" and not _is_retry(head, group)):
            return Decision()
        if settled_before is not None and head.received_at >= settled_before:
            return Decision(soon=True)
        candidates = candidates[:1]
    released: list[tuple[Held, datetime | None]] = []
    free_at = group.free_at
    for one in candidates:
        if spec.rate is not None:
            ready = _ready_at(spec, spec.rate, free_at)
            if ready is not None and now < ready:
                return _released(released, waiting, spec, look_at=ready)
        free_at = _free_at(spec, free_at, now)
        released.append((one, free_at))
    return _released(released, waiting, spec)


def _released(
    released: list[tuple[Held, datetime | None]], waiting: HeldEvents, spec: Subscription, look_at: datetime | None = None
) -> Decision:
    dropped: list[tuple[Held, str]] = []
    if spec.debounce is not None and released:
        newest = released[0][0]
        reason = f"superseded by event {newest.event}, which came within the debounce of {spec.debounce:g} s"
        dropped = [(one, reason) for one in waiting.first if one.event != newest.event]
    is_full = len(waiting.first) >= MOST_AT_ONCE
    if is_full and dropped:
        # The one that is left goes when all others are gone: it is the reason of theirs.
        return Decision(dropped=dropped, soon=True)
    # The run of one in order may have ended before its group knew of it.
    soon = look_at is None and (is_full if spec.ordering is None else bool(released) and len(waiting.first) > 1)
    return Decision(released=released, dropped=dropped, look_at=look_at, soon=soon)


def _quiet_at(spec: Subscription, debounce: float, waiting: HeldEvents) -> datetime:
    quiet = waiting.until + timedelta(seconds=debounce)
    return quiet if spec.debounce_most is None else min(quiet, waiting.since + timedelta(seconds=spec.debounce_most))


def _free_at(spec: Subscription, free_at: datetime | None, now: datetime) -> datetime | None:
    """Return when the rate is as good as unused after one more event; None without a rate."""
    return None if spec.rate is None else max(free_at or now, now) + timedelta(seconds=1 / spec.rate)


def _ready_at(spec: Subscription, rate: float, free_at: datetime | None) -> datetime | None:
    """Return when the next event may be released (the generic cell rate algorithm, ITU-T I.371); None: at any time."""
    return None if free_at is None else free_at - timedelta(seconds=(burst_of(spec, rate) - 1) / rate)


def burst_of(spec: Subscription, rate: float) -> int:
    """Return how many events may be released at once after a rest: by default those of a second."""
    return spec.burst or max(1, int(rate))


def _is_retry(head: Held, group: Group) -> bool:
    return (head.delivery, head.number) == (group.delivery, group.number)
