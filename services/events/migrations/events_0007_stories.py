"""Add the events, the retries and the lateness of deliveries, and the outcomes of their runs."""

from alembic import op

revision = "events_0007"
down_revision = "events_0006"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    ALTER TABLE delivery
        ADD COLUMN events jsonb NOT NULL DEFAULT '{}', ADD COLUMN ended boolean NOT NULL DEFAULT false, ADD COLUMN edited_by text,
        ADD COLUMN retries bigint NOT NULL DEFAULT 0, ADD COLUMN retry_at timestamptz, ADD COLUMN accepted_at timestamptz,
        ADD COLUMN accepted bigint, ADD COLUMN overdue_at timestamptz, ADD COLUMN overdue text
    """,
    "UPDATE delivery SET ended = true WHERE outcome <> 'accepted'",
    "CREATE INDEX delivery_unended ON delivery (received_at) WHERE NOT ended AND dead IS NULL",
    "CREATE INDEX delivery_retry ON delivery (retry_at) WHERE retry_at IS NOT NULL",
    "ALTER TABLE delivery_run ADD COLUMN reason text, ADD COLUMN error text, ADD COLUMN ended_at timestamptz",
)


def upgrade() -> None:
    """Make the columns and the indexes; what an earlier version ended is ended."""
    for statement in STATEMENTS:
        op.execute(statement)
