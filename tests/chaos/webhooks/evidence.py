"""What both stores and the workflow's own file hold about a drill of webhooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from shared.envelope import Envelope, open_message
from shared.messages import EventAccepted, EventFiltered, RunRequested, RunStepCompleted, WebhookReceived
from shared.pull import Delivered
from shared.runs import RUN_STREAMS
from tests.chaos.evidence import archived
from tests.chaos.verdict import TERMINAL, Finding, Mark
from tests.chaos.webhooks.sender import Sent
from tests.chaos.webhooks.verdict import PASSING, BusFacts, RowFacts, findings, unarchived


class Evidence:
    """All that is known of the webhooks that were sent, and what is wrong (`found`)."""

    streams = ("WEBHOOKS", "EVENTS", *RUN_STREAMS, "DEAD")

    def __init__(self, sent: Sequence[Sent]) -> None:
        self._sent = sent
        self.bus = BusFacts()
        self.rows = RowFacts()
        self.marks: list[Mark] = []
        self.found: list[Finding] = []

    def note(self, stream: str, envelope: Envelope, delivered: Delivered) -> None:
        """Add what one message says."""
        facts = self.bus
        facts.stored[stream] = facts.stored.get(stream, 0) + 1
        noun, _, verb = envelope.type.partition(".")
        if noun == "webhook" and verb == "received":
            delivery = open_message(envelope, WebhookReceived).delivery
            facts.webhooks[delivery] = facts.webhooks.get(delivery, 0) + 1
        elif noun == "event" and verb == "accepted":
            accepted = open_message(envelope, EventAccepted)
            facts.delivery_of[accepted.event] = accepted.delivery
        elif noun == "event" and verb == "filtered":
            facts.filtered.add(open_message(envelope, EventFiltered).delivery)
        elif noun == "run" and verb == "requested":
            requested = open_message(envelope, RunRequested)
            if requested.delivery is not None:
                facts.runs.setdefault(requested.delivery, set()).add(requested.run)
        elif noun == "run" and verb == "step_completed":
            step = open_message(envelope, RunStepCompleted)
            times = facts.recorded.setdefault(step.run, {}).setdefault((step.name, step.ordinal), [])
            times.append(round(delivered.time.timestamp() * 1e9))
        elif noun == "run" and verb in TERMINAL:
            facts.ends.setdefault(envelope.subject, []).append(verb)
        elif noun == "dead":
            facts.dead.append(f"{envelope.type}: {bytes(envelope.data)[:300].decode(errors='replace')}")

    def has_ended(self) -> bool:
        """Return whether the bus has the end of all that was accepted."""
        return all(self.bus.ended(one.delivery) for one in self._sent if one.delivery is not None)

    async def judge(self, database: asyncpg.Connection[Any], marks: list[Mark]) -> bool:
        """Read what the services keep in Postgres and judge; return False when time may still heal something."""
        facts = RowFacts()
        for row in await database.fetch("SELECT id, outcome, dead FROM events.delivery"):
            facts.deliveries[row["id"]] = f"dead: {row['dead']}" if row["dead"] else row["outcome"]
        for row in await database.fetch("SELECT run, delivery, status FROM events.delivery_run"):
            facts.runs.setdefault(row["delivery"], {})[row["run"]] = row["status"]
        for row in await database.fetch("SELECT id, status FROM executor.run"):
            facts.states[row["id"]] = row["status"]
        facts.archived = await archived(database, self.streams)
        self.rows, self.marks = facts, marks
        self.found = findings(self._sent, self.bus, facts, marks)
        return not (any(one.kind in PASSING for one in self.found) or unarchived(self.bus, facts))
