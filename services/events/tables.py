"""The tables of the events service, as its migrations make them: the one place that names their columns."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, MetaData, PrimaryKeyConstraint, Table, Text, false, text
from sqlalchemy.dialects.postgresql import JSONB

from shared.tables import Moment, checkpoint_in, required, resource_in

metadata = MetaData()
checkpoint = checkpoint_in(metadata)
resource = resource_in(metadata)
# The condition of sources that ask to be registered with their sender, as the index has it.
REGISTERED = text(
    "resource.noun = 'source' AND NOT resource.removed AND (resource.spec -> 'settings' -> 'registration') IS NOT NULL"
)
Index("resource_registered", resource.c.id, postgresql_where=REGISTERED)

# Written by the projection of registrations only: `state` is the last message, which says to look at it at `look_at`.
registration = Table(
    "registration",
    metadata,
    Column("source", Text, primary_key=True),
    Column("org", Text, nullable=False),
    Column("state", JSONB, nullable=False),
    Column("look_at", Moment, nullable=False),
)
Index("registration_look", registration.c.look_at)
Index("registration_org", registration.c.org)

# Each column is written by the projection of one stream only, or gets the same value from several, so that the rows do not
# depend on which stream is read first. `sequence` and `emitted` are where the message that began the delivery is, in WEBHOOKS or in
# EVENTS; `accepted` is where its newest event is there. `overdue` says why it had no end at `overdue_at`, `deferred` why it waits
# for the adapter `deferred_for`, if it does.
delivery = Table(
    "delivery",
    metadata,
    Column("id", Text, primary_key=True),
    *required(Text, "org", "source"),
    Column("received_at", Moment, nullable=False),
    Column("correlation_id", Text, nullable=False),
    Column("sequence", BigInteger),
    Column("type", Text),
    Column("outcome", Text, nullable=False, server_default="accepted"),
    Column("reason", Text),
    Column("retried_by", Text),
    Column("dead", Text),
    Column("emitted", BigInteger),
    Column("ended", Boolean, nullable=False, server_default=false()),
    Column("edited_by", Text),
    Column("retries", BigInteger, nullable=False, server_default=text("0")),
    Column("retry_at", Moment),
    Column("accepted_at", Moment),
    Column("accepted", BigInteger),
    Column("overdue_at", Moment),
    Column("overdue", Text),
    Column("deferred_for", Text),
    Column("deferred", Text),
)
Index("delivery_list", delivery.c.org, delivery.c.received_at.desc(), delivery.c.id.desc())
Index(
    "delivery_unrouted",
    *(delivery.c.org, delivery.c.received_at),
    postgresql_where=text("outcome = 'accepted' AND emitted IS NOT NULL AND dead IS NULL"),
)
Index("delivery_unended", *(delivery.c.source, delivery.c.received_at), postgresql_where=text("NOT ended AND dead IS NULL"))
Index("delivery_retry", *(delivery.c[name] for name in ("org", "retry_at", "id")), postgresql_where=text("retry_at IS NOT NULL"))
# The condition of deliveries that wait for an adapter, as the index has it.
DEFERRED = text("delivery.deferred_for IS NOT NULL AND delivery.dead IS NULL")
Index(
    "delivery_deferred",
    *(delivery.c[name] for name in ("org", "deferred_for", "received_at", "id")),
    postgresql_where=DEFERRED,
)

# The events of a delivery by number, each with its newest id; `answered`: it has an outcome.
delivery_event = Table(
    "delivery_event",
    metadata,
    Column("delivery", Text, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    *required(Text, "event", "type"),
    Column("answered", Boolean, nullable=False),
)
Index("delivery_event_unanswered", delivery_event.c.delivery, postgresql_where=text("NOT answered"))

# The outcome of an event with a subscription, "" where none matched. Those of a delivery are found by the second index: the key
# does not begin with the delivery, or the planner might take it for that and read all of one that has very many.
delivery_outcome = Table(
    "delivery_outcome",
    metadata,
    *(Column("delivery", Text), Column("number", BigInteger), Column("subscription", Text)),
    PrimaryKeyConstraint("number", "delivery", "subscription"),
    *(Column(name, Text) for name in ("name", "workflow")),
    Column("status", Text, nullable=False),
    *(Column(name, Text) for name in ("reason", "run")),
    Column("retry_at", Moment),
    Column("tries", BigInteger, nullable=False),
)
Index("delivery_outcome_status", *(delivery_outcome.c[name] for name in ("delivery", "status", "number", "subscription")))
Index(
    "delivery_outcome_retry",
    *(delivery_outcome.c[name] for name in ("delivery", "retry_at")),
    postgresql_where=text("retry_at IS NOT NULL"),
)

delivery_run = Table(
    "delivery_run",
    metadata,
    Column("run", Text, primary_key=True),
    *required(Text, "delivery", "workflow", "status"),
    Column("requested_at", Moment, nullable=False),
    Column("reason", Text),
    Column("error", Text),
    Column("ended_at", Moment),
    Column("resumes", Text),
)
Index("delivery_run_delivery", delivery_run.c.delivery, delivery_run.c.requested_at, delivery_run.c.run)

# Events that a subscription holds; `sequence` is where the message is in EVENTS, `run_org` whose their runs will be.
held = Table(
    "held",
    metadata,
    Column("event", Text, primary_key=True),
    Column("subscription", Text, primary_key=True),
    *required(Text, "name", "workflow", "org", "source", "delivery"),
    Column("number", BigInteger, nullable=False),
    *required(Text, "held_group", "key"),
    *required(Moment, "received_at", "held_at"),
    Column("sequence", BigInteger, nullable=False),
    Column("run_org", Text, nullable=False),
)
Index("held_org", held.c.run_org, held.c.held_group)
Index("held_order", *(held.c[name] for name in ("held_group", "received_at", "delivery", "number", "event")))
Index("held_subscription", held.c.subscription)

# The last event of a group that was released, and the rate's arrival time after it.
held_group = Table(
    "held_group",
    metadata,
    Column("id", Text, primary_key=True),
    *required(Text, "subscription", "run", "delivery"),
    Column("number", BigInteger, nullable=False),
    Column("free_at", Moment),
    Column("released_at", Moment, nullable=False),
)
Index("held_group_run", held_group.c.run)

# Waits of runs for events, by the equality that their expression demands.
event_wait = Table(
    "event_wait",
    metadata,
    Column("run", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("ordinal", BigInteger, primary_key=True, autoincrement=False),
    *required(Text, "org", "source", "type", "path", "value"),
    Column("expression", Text),
    Column("variables", JSONB, nullable=False),
    Column("since", Moment, nullable=False),
)
Index("event_wait_match", *(event_wait.c[name] for name in ("source", "type", "path", "value", "run")))
Index("event_wait_org", event_wait.c.org)

# Work, and no projection, like the table after it: waits of which no events that came before have been looked at.
new_wait = Table(
    "new_wait",
    metadata,
    Column("run", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("ordinal", BigInteger, primary_key=True, autoincrement=False),
    Column("org", Text, nullable=False),
)
Index("new_wait_org", new_wait.c.org)

# Events that are to be looked at, since runs wait for some of their source and type; `sequence` is where the message is in EVENTS.
awaited_event = Table(
    "awaited_event",
    metadata,
    Column("event", Text, primary_key=True),
    Column("org", Text, nullable=False),
    Column("sequence", BigInteger, nullable=False),
)
Index("awaited_event_order", awaited_event.c.org, awaited_event.c.sequence)

# The waits that the events of a delivery have answered.
delivery_woken = Table(
    "delivery_woken",
    metadata,
    Column("run", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("ordinal", BigInteger, primary_key=True, autoincrement=False),
    *required(Text, "org", "delivery"),
    Column("number", BigInteger, nullable=False),
    Column("woken_at", Moment, nullable=False),
)
Index("delivery_woken_delivery", *(delivery_woken.c[name] for name in ("delivery", "woken_at", "run")))
Index("delivery_woken_org", delivery_woken.c.org)

# `position` is where the letter is in DEAD; `sequence` where its message was in `stream`, and `key` the message's key.
dead_letter = Table(
    "dead_letter",
    metadata,
    Column("id", Text, primary_key=True),
    *required(Text, "org", "service", "consumer", "type", "status", "error", "reason"),
    Column("tries", BigInteger, nullable=False),
    Column("received_at", Moment, nullable=False),
    Column("stream", Text, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("key", Text, nullable=False),
    *(Column(name, Text) for name in ("message", "delivery")),
    Column("correlation_id", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("changed_by", Text),
    Column("changed_at", Moment),
)
Index("dead_letter_list", dead_letter.c.org, dead_letter.c.received_at.desc(), dead_letter.c.id.desc())
Index("dead_letter_open", dead_letter.c.delivery, postgresql_where=text("status = 'open'"))

replay = Table(
    "replay",
    metadata,
    Column("id", Text, primary_key=True),
    *required(Text, "org", "status"),
    *required(Moment, "since", "until"),
    *(Column(name, Text) for name in ("source", "source_name", "delivery_status", "type")),
    Column("everything", Boolean, nullable=False),
    Column("rate", Double, nullable=False),
    Column("total", BigInteger, nullable=False),
    *(Column(name, BigInteger, nullable=False, server_default=text("0")) for name in ("replayed", "skipped", "failed")),
    Column("actor", Text, nullable=False),
    Column("requested_at", Moment, nullable=False),
    Column("ended_at", Moment),
)
Index("replay_list", replay.c.org, replay.c.requested_at.desc(), replay.c.id.desc())
Index("replay_running", replay.c.requested_at, postgresql_where=text("status = 'running'"))

# `events` is written by the projection of EVENTS only, `runs` by that of RUNS.
chain = Table(
    "chain",
    metadata,
    Column("org", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("events", BigInteger, nullable=False, server_default=text("0")),
    Column("runs", BigInteger, nullable=False, server_default=text("0")),
)

# How far each schedule has come; written with the schedule's lock, and no projection.
schedule_state = Table(
    "schedule_state",
    metadata,
    Column("id", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("spec", JSONB, nullable=False),
    Column("handled_until", Moment, nullable=False),
    Column("next_at", Moment),
    Column("last", JSONB(none_as_null=True)),
    Column("last_run", Text),
)
Index("schedule_state_next", schedule_state.c.next_at)
