"""The tables of the executor, as its migrations make them: the one place that names their columns."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    func,
    text,
)

from shared.tables import Moment, checkpoint_in, required

metadata = MetaData()
checkpoint = checkpoint_in(metadata)

# `state` is the fold of the run's messages as JSON; the columns beside it are what lists and the resumer ask for.
run = Table(
    "run",
    metadata,
    Column("id", Text, primary_key=True),
    *required(Text, "org", "workflow", "status"),
    Column("requested_at", Moment, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("state", JSON, nullable=False),
    Column("finished_at", Moment),
    # whole: every message is on the bus. going: some may be purged. gone: all are.
    Column("on_bus", Text, CheckConstraint("on_bus IN ('whole', 'going', 'gone')"), nullable=False, server_default="whole"),
    Column("blocked_on", Text),
    # Beside it the rank of the priority.
    Column("concurrency_key", Text),
    Column("rank", SmallInteger, nullable=False, server_default=text("1")),
    # When a waiting run is to be looked at.
    Column("due_at", Moment),
    # Only while it has not begun.
    Column("expires_at", Moment),
    # The chain that it continues, which another run started.
    Column("chain", Text),
    Column("worker_group", Text, nullable=False, server_default="default"),
)
WAITS_FOR_SLOT = text("status = 'waiting' AND blocked_on = 'concurrency'")
"""The runs that wait for a concurrency slot: the condition of their index."""
IS_PARKED = text("status = 'waiting' AND blocked_on = 'worker'")
"""The runs that are parked: the condition of their index."""
_newest = (run.c.requested_at.desc(), run.c.id.desc())
Index("run_list", run.c.org, *_newest)
Index("run_status", run.c.org, run.c.status, *_newest)
Index("run_workflow", run.c.org, run.c.workflow, *_newest)
Index("run_to_purge", run.c.finished_at, postgresql_where=text("on_bus <> 'gone' AND finished_at IS NOT NULL"))
Index("run_due", run.c.due_at, postgresql_where=run.c.due_at.is_not(None))
Index("run_expiring", run.c.expires_at, postgresql_where=run.c.expires_at.is_not(None))
Index(
    "run_concurrency",
    *(run.c.concurrency_key, run.c.rank, run.c.requested_at, run.c.id),
    postgresql_where=WAITS_FOR_SLOT,
)
Index("run_waiting", run.c.id, postgresql_where=text("status IN ('waiting', 'delayed', 'cancelling')"))
Index("run_queued", run.c.worker_group, run.c.org, postgresql_where=text("status = 'queued'"))
Index("run_parked", run.c.id, postgresql_where=IS_PARKED)
Index("run_chain", run.c.org, run.c.chain, postgresql_where=run.c.chain.is_not(None))

# A question of the run `id` to people: `ask` as it is folded from the run's messages; `addressed` holds those who are asked, each
# between two ends of lines. `next_at`: when they are to be told of it again.
approval = Table(
    "approval",
    metadata,
    Column("id", Text, primary_key=True),
    Column("approval", Text, primary_key=True),
    *required(Text, "org", "workflow", "status"),
    Column("opened_at", Moment, nullable=False),
    Column("next_at", Moment),
    *required(Text, "addressed"),
    Column("ask", JSON, nullable=False),
)
Index("approval_list", approval.c.org, approval.c.opened_at.desc(), approval.c.approval.desc())
Index("approval_due", approval.c.next_at, postgresql_where=approval.c.next_at.is_not(None))

concurrency_slot = Table(
    "concurrency_slot",
    metadata,
    Column("run", Text, primary_key=True),
    Column("key", Text, nullable=False),
    Column("since", Moment, nullable=False, server_default=func.now()),
)
Index("concurrency_slot_key", concurrency_slot.c.key)

line = Table(
    "line",
    metadata,
    Column("run", Text, primary_key=True),
    Column("n", BigInteger, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("line", JSON, nullable=False),
)

# `id` is the run's; `seq` and `place` are where the stream has it: the message, and the part of it. `bytes` is the result's size.
step = Table(
    "step",
    metadata,
    Column("id", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("place", Integer, primary_key=True),
    *required(Text, "kind", "name"),
    Column("ordinal", Integer, nullable=False),
    Column("position", Integer),
    Column("attempt", Integer, nullable=False),
    Column("completed_at", Moment, nullable=False),
    Column("timed_out", Boolean, nullable=False),
    Column("given_up", Boolean, nullable=False, server_default=text("false")),
    Column("bytes", Integer, nullable=False),
    Column("result", JSON, nullable=False),
)

file = Table(
    "file",
    metadata,
    Column("org", Text, primary_key=True),
    Column("path", Text(collation="C"), primary_key=True),
    Column("sha256", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("version", BigInteger, nullable=False),
)

# A version is by the message that made it: `id` is the message's, `version` its sequence. It was the file until `until`, and is so
# now without; no `sha256` where the file was not there. `gap`: the versions before it are not kept any more.
file_version = Table(
    "file_version",
    metadata,
    Column("org", Text, primary_key=True),
    Column("path", Text(collation="C"), primary_key=True),
    Column("version", BigInteger, primary_key=True),
    *required(Text, "id", "commit", "actor"),
    Column("at", Moment, nullable=False),
    Column("until", Moment),
    Column("sha256", Text),
    Column("size", BigInteger, nullable=False),
    Column("note", Text),
    Column("moved_from", Text),
    Column("gap", Boolean, nullable=False, server_default=text("false")),
)
Index("file_version_commit", file_version.c.org, file_version.c.commit, file_version.c.version)
Index("file_version_until", file_version.c.org, file_version.c.until)

# `version` is the sequence of the first of its messages; `changes` is how many it has.
file_commit = Table(
    "file_commit",
    metadata,
    Column("org", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("at", Moment, nullable=False),
    *required(Text, "actor"),
    Column("note", Text),
    Column("changes", Integer, nullable=False),
)
Index("file_commit_list", file_commit.c.org, file_commit.c.version.desc())

# Since when an organization keeps every version that was there.
file_history = Table(
    "file_history",
    metadata,
    Column("org", Text, primary_key=True),
    Column("since", Moment, nullable=False),
)

adapter = Table(
    "adapter",
    metadata,
    Column("org", Text, primary_key=True),
    Column("name", Text(collation="C"), primary_key=True),
    Column("entry", JSON, nullable=False),
    Column("version", BigInteger, nullable=False),
)

workflow = Table(
    "workflow",
    metadata,
    Column("org", Text, primary_key=True),
    Column("name", Text(collation="C"), primary_key=True),
    Column("entry", JSON, nullable=False),
    Column("version", BigInteger, nullable=False),
)

# `value` is JSON as it was given; `change` is the id of the last change, which is not made a second time.
state = Table(
    "state",
    metadata,
    Column("org", Text, primary_key=True),
    Column("key", Text(collation="C"), primary_key=True),
    Column("value", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("updated_at", Moment, nullable=False),
    *required(Text, "updated_by", "change"),
    Column("expires_at", Moment),
)
Index("state_expiring", state.c.expires_at, postgresql_where=state.c.expires_at.is_not(None))
