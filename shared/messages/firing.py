"""Messages of the events service about the times of schedules: one for each, beside what was missed together."""

from __future__ import annotations

from shared.messages.declaration import Message, message


@message("firing.fired", key="schedule", by="events")
class ScheduleFired(Message, frozen=True, kw_only=True):
    """A schedule fired for one of its times, or by hand: `run` was requested, or the event of `delivery` was made.

    It begins the chain of either.
    """

    schedule: str
    name: str
    scheduled_for: str
    run: str | None = None
    delivery: str | None = None


@message("firing.skipped", key="schedule", by="events")
class ScheduleSkipped(Message, frozen=True, kw_only=True):
    """A schedule did not fire for one of its times, because its last run, `run`, went on."""

    schedule: str
    name: str
    scheduled_for: str
    run: str
    reason: str


@message("firing.failed", key="schedule", by="events")
class ScheduleFailed(Message, frozen=True, kw_only=True):
    """A schedule could not fire for one of its times: its workflow is not there, say, or does not take its input."""

    schedule: str
    name: str
    scheduled_for: str
    reason: str


@message("firing.missed", key="schedule", by="events")
class ScheduleMissed(Message, frozen=True, kw_only=True):
    """All times of a schedule from `first` to `last` passed in an outage, and are not made up for, as its `catch_up` has it."""

    schedule: str
    name: str
    first: str
    last: str
