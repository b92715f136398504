"""The archive of every stream, by day of the stream's store time, and its checkpoints."""

from alembic import op

revision = "logs_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.execute(
        """
        CREATE TABLE checkpoint (
            projection text PRIMARY KEY, stream text NOT NULL, incarnation text NOT NULL, last_seq bigint NOT NULL,
            updated_at timestamptz NOT NULL DEFAULT now())
        """
    )
    # `time` is when the stream stored the message: equal at every reading, so that the key absorbs repetitions. A stream that
    # is made anew counts from 1 again: hence the incarnation.
    op.execute(
        """
        CREATE TABLE message (
            time timestamptz NOT NULL, stream text NOT NULL, incarnation text NOT NULL, seq bigint NOT NULL,
            id text NOT NULL, type text NOT NULL, level text NOT NULL, service text NOT NULL, org text NOT NULL,
            key text NOT NULL, run text, correlation_id text NOT NULL, causation_id text, message text NOT NULL,
            data jsonb, document bytea NOT NULL, said_at timestamptz NOT NULL, tsv tsvector NOT NULL,
            PRIMARY KEY (incarnation, seq, time))
        PARTITION BY RANGE (time)
        """
    )
    # Each index slows every insert: these serve the two orders of search, the two chains, and words.
    op.execute("CREATE INDEX message_time ON message (time, stream, seq)")
    op.execute("CREATE INDEX message_org ON message (org, time)")
    op.execute("CREATE INDEX message_correlation ON message (correlation_id)")
    op.execute("CREATE INDEX message_run ON message (run) WHERE run IS NOT NULL")
    op.execute("CREATE INDEX message_words ON message USING gin (tsv)")
    # Takes what no day's partition takes, so that nothing is lost for want of one.
    op.execute("CREATE TABLE message_default PARTITION OF message DEFAULT")
