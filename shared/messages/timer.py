"""Timers: the broker keeps them, and says when one is due."""

from __future__ import annotations

from shared.messages.declaration import Message, message


@message("timer.set", key="key", by="executor")
class TimerSet(Message, frozen=True, kw_only=True):
    """Something is to be looked at again `at` a time (RFC 3339): the broker then stores this document once more, as `timer.fired`.

    A later one with the same key takes its place. For runs the key is the run's id.
    """

    key: str
    at: str

    def broker_headers(self) -> dict[str, str]:
        """Return the schedule (nats-server ADR-51). When it is due the broker removes it, and keeps what it says for a day."""
        return {
            "Nats-Schedule": f"@at {self.at}",
            "Nats-Schedule-Target": f"timer.{self.key}.fired",
            "Nats-Schedule-TTL": "24h",
        }


@message("timer.fired", key="key", by="executor")
class TimerFired(Message, frozen=True, kw_only=True):
    """The time of `timer.set` has come; said by the broker, whose document still calls itself `timer.set`."""

    key: str
    at: str
