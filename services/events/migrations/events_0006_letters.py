"""Add dead letters; their projection reads them from the first one on."""

from alembic import op

revision = "events_0006"
down_revision = "events_0005"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE dead_letter (
        id text PRIMARY KEY, org text NOT NULL, service text NOT NULL, consumer text NOT NULL, type text NOT NULL,
        status text NOT NULL, error text NOT NULL, reason text NOT NULL, tries bigint NOT NULL, received_at timestamptz NOT NULL,
        stream text NOT NULL, sequence bigint NOT NULL, key text NOT NULL, message text, delivery text,
        correlation_id text NOT NULL, position bigint NOT NULL, changed_by text, changed_at timestamptz)
    """,
    "CREATE INDEX dead_letter_list ON dead_letter (org, received_at DESC, id DESC)",
    "DELETE FROM checkpoint WHERE projection = 'dead'",
)


def upgrade() -> None:
    """Make the table."""
    for statement in STATEMENTS:
        op.execute(statement)
