"""Settings of the events service."""

from __future__ import annotations

from shared import config
from shared.config import Environment

# Longer than a message takes that is put off, for a bug, as often as it may be.
OVERDUE = 300


class EventsSettings(config.Settings, frozen=True, kw_only=True):
    """Read once at start. `longest_chain` bounds the runs of one chain, and the events that they emit.

    From `most_queued` queued runs on floods of webhooks are not routed. `max_backlog` is the gateway's bound, in messages. A
    delivery without an end is overdue after `overdue` seconds.
    """

    longest_chain: int
    most_queued: int
    max_backlog: int
    overdue: int


def read(environment: Environment) -> EventsSettings:
    """Return the settings; `environment.check` reports a missing one."""
    return EventsSettings(
        **config.common(environment),
        longest_chain=config.longest_chain(environment),
        most_queued=config.most_queued(environment),
        max_backlog=config.max_backlog(environment),
        overdue=environment.integer("MILLRACE_OVERDUE", OVERDUE, minimum=1),
    )
