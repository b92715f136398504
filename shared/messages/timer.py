"""Timers: the broker keeps them, and publishes when one is due. Each belongs to the service that set it, and to no other."""

from __future__ import annotations

from collections.abc import Mapping

from shared.messages.declaration import Message, message

# Set by the broker on a schedule's message: the subject of that schedule (nats-server ADR-51).
_SCHEDULER = "Nats-Scheduler"


@message("timer.set", key="key", by=("executor", "events"), suffix="owner")
class TimerSet(Message, frozen=True, kw_only=True):
    """Something is to be looked at again `at` a time (RFC 3339): the broker then stores this document once more, as `timer.fired`.

    A later one with the same owner and key takes its place. `owner` is the service that sets it and hears of it. Of the executor's
    timers the key is the run's id.
    """

    key: str
    owner: str
    at: str

    def broker_headers(self) -> dict[str, str]:
        """Return the schedule (nats-server ADR-51). When it is due the broker removes it, and keeps its message for a day."""
        return {
            "Nats-Schedule": f"@at {self.at}",
            "Nats-Schedule-Target": f"timer.{self.key}.fired.{self.owner}",
            "Nats-Schedule-TTL": "24h",
        }


@message("timer.fired", key="key", by=(), suffix="owner")
class TimerFired(Message, frozen=True, kw_only=True):
    """The time of `timer.set` has come; published by the broker alone, whose document still calls itself `timer.set`."""

    key: str
    owner: str
    at: str


def fired_for(owner: str) -> str:
    """Return the subjects at which a service hears of its timers, as a NATS filter."""
    return f"timer.*.fired.{owner}"


def is_foreign(headers: Mapping[str, str], owner: str) -> bool:
    """Return whether a timer fired by another service's schedule: the broker checks no permission at a schedule's target."""
    scheduler = headers.get(_SCHEDULER)
    return scheduler is not None and not scheduler.endswith(f".set.{owner}")
