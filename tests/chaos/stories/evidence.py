"""What both stores hold about the deliveries of the drill."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import asyncpg

from shared.envelope import Envelope, open_envelope, open_message
from shared.messages import DeadLettered, EventFiltered, EventRouted, EventUnroutable, RunRequested, WebhookReceived
from shared.pull import Delivered
from shared.runs import RUN_STREAMS
from tests.chaos.stories.sending import Made
from tests.chaos.stories.verdict import PASSING, BusFacts, Story, findings
from tests.chaos.verdict import TERMINAL, Finding, Mark

STORIES = """
    SELECT d.id, d.outcome, d.dead, d.ended, d.overdue_at,
           array(SELECT status FROM events.delivery_run r WHERE r.delivery = d.id ORDER BY r.run) AS runs
      FROM events.delivery d
"""


class Evidence:
    """All that is known of the webhooks that were sent, and what is wrong (`found`)."""

    streams = ("WEBHOOKS", "EVENTS", *RUN_STREAMS, "DEAD")

    def __init__(self, made: Sequence[Made]) -> None:
        self._made = made
        self.bus = BusFacts()
        self.stories: dict[str, Story] = {}
        self.found: list[Finding] = []

    def note(self, _stream: str, envelope: Envelope, _delivered: Delivered) -> None:
        """Add what one message says."""
        facts = self.bus
        noun, _, verb = envelope.type.partition(".")
        if envelope.type == "webhook.received":
            delivery = open_message(envelope, WebhookReceived).delivery
            facts.webhooks[delivery] = facts.webhooks.get(delivery, 0) + 1
        elif noun == "event" and verb in {"routed", "filtered", "unroutable"}:
            outcome: EventRouted | EventFiltered | EventUnroutable = open_message(envelope)
            facts.outcomes.setdefault(outcome.delivery, []).append(verb)
        elif envelope.type == "run.requested":
            requested = open_message(envelope, RunRequested)
            if requested.delivery is not None:
                facts.runs.setdefault(requested.delivery, set()).add(requested.run)
        elif noun == "run" and verb in TERMINAL:
            facts.ends.setdefault(envelope.subject, []).append(verb)
        elif noun == "dead":
            # Of any other message than a webhook that cannot be read it is a second outcome, and wrong.
            original: Any = open_message(open_envelope(base64.b64decode(open_message(envelope, DeadLettered).document_base64)))
            facts.outcomes.setdefault(getattr(original, "delivery", None) or "none", []).append("dead")

    def has_ended(self) -> bool:
        """Return whether the bus has the end of all that was accepted."""
        return all(self.bus.ended(one.delivery) for one in self._made if one.delivery is not None)

    async def judge(self, database: asyncpg.Connection[Any], _marks: list[Mark]) -> bool:
        """Read the rows and judge; return False when time may still heal something."""
        self.stories = {
            row["id"]: Story(
                status="dead" if row["dead"] is not None and row["outcome"] == "accepted" else row["outcome"],
                ended=row["ended"] or row["dead"] is not None,
                overdue=row["overdue_at"] is not None,
                runs=tuple(row["runs"]),
            )
            for row in await database.fetch(STORIES)
        }
        self.found = findings(self._made, self.bus, self.stories)
        return not any(one.kind in PASSING for one in self.found)
