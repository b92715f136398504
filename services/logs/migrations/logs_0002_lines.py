"""Lines of runs as rows of their own, and the workflow that a message is about."""

from alembic import op

revision = "logs_0002"
down_revision = "logs_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the columns, and record that archived rows are to be converted, which the service does while it serves."""
    # Neither column is written into the rows that are there.
    op.execute("ALTER TABLE message ADD COLUMN workflow text, ADD COLUMN line integer NOT NULL DEFAULT 0")
    op.execute("CREATE INDEX message_workflow ON message (workflow, time) WHERE workflow IS NOT NULL")
    # Of each conversion that is not over: the rows from this one on are done, the newest being done first.
    op.execute(
        "CREATE TABLE conversion (name text PRIMARY KEY, time timestamptz NOT NULL, stream text NOT NULL, seq bigint NOT NULL)"
    )
    op.execute("INSERT INTO conversion SELECT 'lines', '9999-01-01', '', 0 WHERE EXISTS (SELECT FROM message)")
