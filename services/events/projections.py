"""Messages into rows: those of deliveries here, those of resources as they are declared."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from nats.aio.client import Client

from services.events import store
from services.events.awaiting.rows import event_statements, wait_statements
from services.events.holding.state import held_statements
from services.events.letter_rows import letter_statements, original_of
from services.events.outcomes import Change, Routing, Said, changes
from services.events.registrations import rows as registrations
from services.events.replay_rows import replay_statements
from services.events.resources import DERIVED
from shared.db import Connection
from shared.envelope import Envelope
from shared.messages import (
    DeadLettered,
    EventAccepted,
    EventDeferred,
    EventFiltered,
    EventHeld,
    EventOverdue,
    EventResumed,
    EventRouted,
    EventUnroutable,
    RunError,
    RunRequested,
    WebhookReceived,
)
from shared.messages.shards import in_shard
from shared.owners.catalog import catalog_of
from shared.projected import Apply, Projected, Recorded, in_batches
from shared.runs import ENDED, RUN_STREAMS, status_after, status_of
from shared.statements import Statement

# Deliveries are looked at by people; their rows are written together with other messages.
LINGER = 0.02
# Runs without a delivery that are remembered until their ends, which mostly come soon.
REMEMBERED = 50_000
# Characters of a run's error that its delivery shows; the run has all of it.
LONGEST_ERROR = 1000
RESUMED = {"deferred_for": None, "deferred": None}
QUEUED = {"status": "queued", "reason": None, "error": None, "ended_at": None}
TABLES = (
    "delivery",
    "delivery_event",
    "delivery_outcome",
    "delivery_run",
    "chain",
    "dead_letter",
    "replay",
    "held",
    "held_group",
    "event_wait",
    "delivery_woken",
)


def projected(client: Client) -> list[Projected]:
    """Return every projection of this service; those of deliveries fill the same rows."""
    return [
        catalog_of("events", client, DERIVED),
        registrations.projected(),
        *(
            Projected(name=name, stream=stream, apply=apply(), tables=TABLES, linger=LINGER)
            for name, (stream, apply) in DELIVERIES.items()
        ),
    ]


async def received(batch: Sequence[Recorded], _connection: Connection) -> list[Statement]:
    """Webhooks are on disk: their deliveries begin."""
    rows = {}
    for at in batch:
        if isinstance(at.message, WebhookReceived):
            rows[at.message.delivery] = _delivery(at.message, at.envelope) | {"sequence": at.delivered.sequence}
    return [store.note_deliveries(list(rows.values()))] if rows else []


async def routed(batch: Sequence[Recorded], connection: Connection) -> list[Statement]:
    """Events were made of deliveries, and subscriptions wanted them or none did."""
    kinds = (EventAccepted, EventHeld, EventRouted, EventFiltered, EventUnroutable, EventOverdue, EventDeferred, EventResumed)
    messages = [(at, at.message) for at in batch if isinstance(at.message, kinds)]
    rows = await store.routings(connection, list({message.delivery for _, message in messages}))
    # Those that may have outcomes which an event that is made again is to forget.
    again = {id_ for id_, row in rows.items() if row["accepted"] is not None}
    # Read from the rows once, and written to them once, of a delivery: most have several messages in a batch.
    folded: dict[str, list[Said]] = {}
    for at, message in messages:
        if isinstance(message, EventAccepted | EventOverdue | EventDeferred) and message.delivery not in rows:
            rows[message.delivery] = _delivery(message, at.envelope) | store.UNROUTED
        row = rows.get(message.delivery)
        if row is None:
            continue
        if isinstance(message, EventOverdue):
            row |= {"overdue_at": at.envelope.time, "overdue": message.reason}
            continue
        if isinstance(message, EventDeferred | EventResumed):
            row |= {"deferred_for": message.adapter, "deferred": message.reason} if isinstance(message, EventDeferred) else RESUMED
            continue
        folded.setdefault(message.delivery, []).append(message)
        if isinstance(message, EventAccepted):
            row |= {"accepted": at.delivered.sequence, "accepted_at": at.envelope.time, "overdue_at": None, "overdue": None}
            if message.emitted_by is not None and message.retried_by is None:
                row["emitted"] = at.delivered.sequence
            if message.retried_by is not None:
                row |= RESUMED  # somebody has done what it waits for
    changed: dict[str, dict[int, Change]] = {}
    for delivery, said in folded.items():
        after, changed[delivery] = changes(msgspec.convert(rows[delivery], Routing), said)
        rows[delivery] |= msgspec.structs.asdict(after)
        if after.retried_by is not None:
            again.add(delivery)
    emitted = Counter(
        (at.envelope.org, message.chain)
        for at, message in messages
        if isinstance(message, EventAccepted) and message.chain is not None and message.retried_by is None
    )
    written = [*replay_statements(batch), *store.put_routings(list(rows.values()), changed, again)]
    written += held_statements(messages)
    written += event_statements([(at, message) for at, message in messages if isinstance(message, EventAccepted)])
    return [*written, store.count_in_chains("events", emitted)] if emitted else written


class RunsOfDeliveries:
    """Runs in the rows of the deliveries that asked for them."""

    def __init__(self) -> None:
        # Runs without a delivery have no row here. One that is forgotten is looked for among the rows, in vain.
        self._others: OrderedDict[str, None] = OrderedDict()

    async def apply(self, batch: Sequence[Recorded], _connection: Connection) -> list[Statement]:
        """Runs were asked for by deliveries, began and ended."""
        asked: dict[str, dict[str, Any]] = {}
        chained: Counter[tuple[str, str]] = Counter()
        outcomes: dict[str, dict[str, Any]] = {}
        for at in batch:
            message, run = at.message, at.envelope.subject
            if isinstance(message, RunRequested):
                if message.hops:
                    chained[at.envelope.org, at.envelope.correlationid] += 1
                if message.delivery is not None:
                    row = {"run": message.run, "delivery": message.delivery, "workflow": message.workflow}
                    asked.setdefault(message.run, row | {"requested_at": at.envelope.time, "resumes": message.resumes})
                else:
                    self._others[run] = None
            elif message is not None and run not in self._others:
                before = outcomes.get(run, {}).get("status")
                status = status_after(before, status_of(message))
                if status is not None and (status != before or status in ENDED):
                    outcomes[run] = _outcome(status, at)
        while len(self._others) > REMEMBERED:
            self._others.popitem(last=False)
        # A run that was requested and began in one batch needs no second statement.
        rows = [row | outcomes.pop(run, QUEUED) for run, row in asked.items()]
        statements = [store.note_runs(rows)] if rows else []
        statements += wait_statements(batch)
        if chained:
            statements.append(store.count_in_chains("runs", chained))
        given = [{"run": run} | outcome for run, outcome in outcomes.items()]
        return [*statements, store.note_run_outcomes(given)] if given else statements


async def dead(batch: Sequence[Recorded], _connection: Connection) -> list[Statement]:
    """Messages were given up; those of a delivery are shown with the delivery, and people end all of them."""
    statements = letter_statements(batch)
    for at in batch:
        message = at.message
        # A message that a projection could not make a row of was handled all the same.
        if not isinstance(message, DeadLettered) or message.place is not None:
            continue
        envelope, original = original_of(message)
        if envelope is not None and isinstance(original, WebhookReceived | EventAccepted):
            statements.append(store.note_dead(_delivery(original, envelope) | {"dead": message.error}))
    return statements


def _outcome(status: str, at: Recorded) -> dict[str, Any]:
    """Return the columns of a run that got a status: of an end its reason and its error, too."""
    message: Any = at.message
    error: RunError | None = getattr(message, "error", None) if status in ENDED else None
    return {
        "status": status,
        "reason": getattr(message, "reason", None) if status in ENDED else None,
        "error": None if error is None else f"{error.type}: {error.message}"[:LONGEST_ERROR],
        "ended_at": at.envelope.time if status in ENDED else None,
    }


def _delivery(message: WebhookReceived | EventAccepted | EventOverdue | EventDeferred, envelope: Envelope) -> dict[str, Any]:
    return {
        "id": message.delivery,
        "org": envelope.org,
        "source": message.source,
        "received_at": datetime.fromisoformat(message.received_at),
        "correlation_id": envelope.correlationid,
    }


# By the name of the projection: a stream, and what makes the effect of its messages on deliveries. Made anew for each projection:
# what one has read of its stream is true of no other.
DELIVERIES: dict[str, tuple[str, Callable[[], Apply]]] = {
    "webhooks": ("WEBHOOKS", lambda: in_batches(received)),
    "events": ("EVENTS", lambda: in_batches(routed)),
    **{in_shard("runs", shard): (stream, lambda: in_batches(RunsOfDeliveries().apply)) for shard, stream in enumerate(RUN_STREAMS)},
    "dead": ("DEAD", lambda: in_batches(dead)),
}
