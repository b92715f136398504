"""Settings of the events service."""

from __future__ import annotations

from shared import config
from shared.config import Environment


class EventsSettings(config.Settings, frozen=True, kw_only=True):
    """Read once at start. `longest_chain` bounds the runs of one chain, and the events that they emit.

    From `most_queued` queued runs on floods of webhooks are not routed. `max_backlog` is the gateway's bound, in messages.
    """

    longest_chain: int
    most_queued: int
    max_backlog: int


def read(environment: Environment) -> EventsSettings:
    """Return the settings; `environment.check` reports a missing one."""
    return EventsSettings(
        **config.common(environment),
        longest_chain=config.longest_chain(environment),
        most_queued=config.most_queued(environment),
        max_backlog=config.max_backlog(environment),
    )
