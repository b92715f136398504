"""Index the open dead letters of a delivery: they end when it is retried with success."""

from alembic import op

revision = "events_0017"
down_revision = "events_0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    op.execute("CREATE INDEX dead_letter_open ON dead_letter (delivery) WHERE status = 'open'")
