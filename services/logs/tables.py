"""The tables of the archive, as its migrations make them: the one place that names their columns."""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    false,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR

from shared.tables import Moment, checkpoint_in, required, resource_in

metadata = MetaData()
checkpoint = checkpoint_in(metadata)
resource = resource_in(metadata)

# `time` is when the stream stored the message: equal at every reading, so that the key absorbs repetitions. A stream that is made
# anew counts from 1 again: hence the incarnation.
message = Table(
    "message",
    metadata,
    Column("incarnation", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("time", Moment, primary_key=True),
    *required(Text, "stream", "id", "type", "level", "service", "org", "key"),
    Column("run", Text),
    Column("correlation_id", Text, nullable=False),
    Column("causation_id", Text),
    Column("message", Text, nullable=False),
    Column("data", JSONB),
    Column("document", LargeBinary, nullable=False),
    Column("said_at", Moment, nullable=False),
    Column("tsv", TSVECTOR, nullable=False),
    Column("workflow", Text),
    Column("line", Integer, nullable=False, server_default=text("0")),
    Column("version", SmallInteger, nullable=False, server_default=text("0")),
    postgresql_partition_by="RANGE (time)",
)
# Each index slows every insert: these serve the two orders of search, the two chains, words and workflows. The one of an
# organization has all that counts by time need, which then read nothing else.
Index("message_time", message.c.time, message.c.stream, message.c.seq)
Index("message_org", message.c.org, message.c.time, postgresql_include=["level", "line"])
Index("message_correlation", message.c.correlation_id)
Index("message_run", message.c.run, postgresql_where=message.c.run.is_not(None))
Index("message_words", message.c.tsv, postgresql_using="gin")
Index("message_workflow", message.c.workflow, message.c.time, postgresql_where=message.c.workflow.is_not(None))

# Saved searches that are counted: whether one finds more than it may, since when, and what is to be said of it.
alert = Table(
    "alert",
    metadata,
    Column("id", Text, primary_key=True),
    Column("org", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("above", Boolean, nullable=False),
    Column("since", Moment, nullable=False),
    Column("raised", Text),
)

# Of each conversion that is not over: the rows from this one on are done, the newest being done first.
conversion = Table(
    "conversion",
    metadata,
    Column("name", Text, primary_key=True),
    Column("time", Moment, nullable=False),
    Column("stream", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
)

# Sequences that the writer of a stream's archive never got, and whether the audit trail says so already.
gap = Table(
    "gap",
    metadata,
    *(Column(name, kind, primary_key=True) for name, kind in (("stream", Text), ("incarnation", Text), ("first_seq", BigInteger))),
    Column("last_seq", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("found_at", Moment, nullable=False, server_default=func.now()),
    Column("recorded", Boolean, nullable=False, server_default=false()),
)

# Up to where nothing is left that a retention does not keep: that of an organization, or ("") of all but `others`.
removal = Table(
    "removal",
    metadata,
    *(Column(name, Text, primary_key=True) for name in ("stream", "org")),
    Column("others", ARRAY(Text), nullable=False),
    Column("time", Moment, nullable=False),
    Column("incarnation", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
)

# Messages that are to be erased, and, `done`, were: `of` is the id of whose they are, `bodies` and `results` are blobs, and `entry`
# is the index in the digest. `taken`: the owner has erased its part, and the audit trail says so.
erasure = Table(
    "erasure",
    metadata,
    Column("incarnation", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("stream", Text, nullable=False),
    Column("time", Moment, nullable=False),
    *required(Text, "org", "type"),
    Column("of", Text),
    *(Column(name, ARRAY(Text), nullable=False) for name in ("bodies", "results")),
    Column("entry", BigInteger, nullable=False),
    *required(Text, "actor", "reason"),
    *(Column(name, Boolean, nullable=False, server_default=false()) for name in ("taken", "done")),
)
Index("erasure_undone", erasure.c.stream, postgresql_where=text("NOT done"))


def archive_of(stream: str) -> str:
    """Return the name of the projection that archives a stream."""
    return f"archive-{stream.lower()}"
