"""Index what is to be tried again by organization: each has its turn."""

from alembic import op

revision = "events_0013"
down_revision = "events_0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index anew."""
    op.execute("DROP INDEX delivery_retry")
    op.execute("CREATE INDEX delivery_retry ON delivery (org, retry_at, id) WHERE retry_at IS NOT NULL")
