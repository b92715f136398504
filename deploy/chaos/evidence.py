"""What both stores and the workflow's own file hold about a drill, read with administrator's rights past every service."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import asyncpg
import msgspec
import nats
from nats.aio.client import Client

from deploy.chaos.installation import READS_WITHIN
from deploy.chaos.sender import Sent
from deploy.chaos.verdict import PASSING, TERMINAL, BusFacts, Finding, Mark, RowFacts, findings, unarchived
from shared.envelope import Envelope, open_envelope, open_message
from shared.errors import Unavailable
from shared.messages import EventAccepted, EventFiltered, RunRequested, RunStepCompleted, WebhookReceived
from shared.pull import OrderedReader, api_request

STREAMS = ("WEBHOOKS", "EVENTS", "RUNS", "DEAD")
ASKED_EVERY = 1.0


class Evidence(msgspec.Struct, frozen=True):
    """All that is known of a drill at its end, and what is wrong."""

    found: list[Finding]
    bus: BusFacts
    rows: RowFacts
    marks: list[Mark]


class Bus:
    """Follows the streams of a drill; `facts` is what they have said so far."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._read = dict.fromkeys(STREAMS, 0)
        self.facts = BusFacts()

    async def catch_up(self) -> None:
        """Read what the streams have got since the last time. Raises `Unavailable`."""
        for stream in STREAMS:
            info = await api_request(self._client, f"$JS.API.STREAM.INFO.{stream}", None)
            last = int(info["state"]["last_seq"])
            if last > self._read[stream]:
                await self._read_until(stream, last)

    async def _read_until(self, stream: str, last: int) -> None:
        reader = OrderedReader(self._client, stream, after=self._read[stream]).batches()
        try:
            async for batch in reader:
                for delivered in batch:
                    self._note(stream, open_envelope(delivered.data), delivered.time)
                    self._read[stream] = delivered.sequence
                if self._read[stream] >= last:
                    return
        finally:
            await reader.aclose()

    def _note(self, stream: str, envelope: Envelope, at: datetime) -> None:
        facts = self.facts
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
            times.append(round(at.timestamp() * 1e9))
        elif noun == "run" and verb in TERMINAL:
            facts.ends.setdefault(envelope.subject, []).append(verb)
        elif noun == "dead":
            facts.dead.append(f"{envelope.type}: {bytes(envelope.data)[:300].decode(errors='replace')}")


async def rows_of(url: str) -> RowFacts:
    """Read what the services keep in Postgres."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        facts = RowFacts()
        for row in await connection.fetch("SELECT id, outcome, dead FROM events.delivery"):
            facts.deliveries[row["id"]] = f"dead: {row['dead']}" if row["dead"] else row["outcome"]
        for row in await connection.fetch("SELECT run, delivery, status FROM events.delivery_run"):
            facts.runs.setdefault(row["delivery"], {})[row["run"]] = row["status"]
        for row in await connection.fetch("SELECT id, status FROM executor.run"):
            facts.states[row["id"]] = row["status"]
        archived = "SELECT stream, count(DISTINCT (incarnation, seq)) AS n FROM logs.message WHERE stream = ANY($1) GROUP BY stream"
        for row in await connection.fetch(archived, list(STREAMS)):
            facts.archived[row["stream"]] = row["n"]
        return facts
    finally:
        await connection.close()


def marks_of(path: Path) -> list[Mark]:
    """Read what the workflow's executions left behind."""
    lines = (line.split() for line in path.read_text("ascii").splitlines())
    return [Mark(kind, event, int(at)) for kind, event, at in lines]


async def settled(nats_url: str, database_url: str, sent: Sequence[Sent], marks: Path, bound: float) -> Evidence:
    """Wait up to `bound` seconds for everything accepted to have ended in both stores; return what is known then."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + bound
    accepted = [one.delivery for one in sent if one.delivery is not None]
    client = await nats.connect(nats_url)
    try:
        bus = Bus(client)
        while True:
            try:
                async with asyncio.timeout(READS_WITHIN):
                    await bus.catch_up()
            except (Unavailable, TimeoutError):
                if loop.time() > deadline:
                    raise
            if loop.time() > deadline or all(bus.facts.ended(delivery) for delivery in accepted):
                # Rows last: what they show is then on the bus, or was just read from it.
                rows = await rows_of(database_url)
                made = await asyncio.to_thread(marks_of, marks)
                found = findings(sent, bus.facts, rows, made)
                passing = any(one.kind in PASSING for one in found) or unarchived(bus.facts, rows)
                if loop.time() > deadline or not passing:
                    return Evidence(found, bus.facts, rows, made)
            await asyncio.sleep(ASKED_EVERY)  # the rows follow in their own time
    finally:
        await client.close()
