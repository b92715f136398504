"""Settings of the events service."""

from __future__ import annotations

from shared import config
from shared.config import Environment
from shared.egress.configured import egress_of
from shared.egress.policy import EgressRules

# Longer than a message takes that is put off, for a bug, as often as it may be.
OVERDUE = 300


class EventsSettings(config.Settings, frozen=True, kw_only=True):
    """Read once at start. `longest_chain` bounds the runs of one chain, and the events that they emit.

    `quotas` are those of organizations that have none of their own.

    From `most_queued` queued runs on floods of webhooks are not routed. `max_backlog` is the gateway's bound, in messages. A
    delivery without an end is overdue after `overdue` seconds. `public_url` is where senders reach the gateway; `egress` judges
    the hosts at which sources are registered.
    """

    longest_chain: int
    quotas: dict[str, int | None]
    most_queued: int
    max_backlog: int
    overdue: int
    public_url: str | None
    egress: EgressRules


def read(environment: Environment) -> EventsSettings:
    """Return the settings; `environment.check` reports a missing one."""
    return EventsSettings(
        **config.common(environment),
        longest_chain=config.longest_chain(environment),
        quotas=config.quotas(environment),
        most_queued=config.most_queued(environment),
        max_backlog=config.max_backlog(environment),
        overdue=environment.integer("MILLRACE_OVERDUE", OVERDUE, minimum=1),
        public_url=config.public_url(environment),
        egress=egress_of(environment),
    )
