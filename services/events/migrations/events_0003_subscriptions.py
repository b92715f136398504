"""Add the outcome of each subscription of a delivery."""

from alembic import op

revision = "events_0003"
down_revision = "events_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the column; deliveries of before have an outcome alone."""
    op.execute("ALTER TABLE delivery ADD COLUMN subscriptions jsonb NOT NULL DEFAULT '{}'")
