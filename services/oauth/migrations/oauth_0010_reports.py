"""A token knows when a run has reported it for which no newer one was got."""

from alembic import op

revision = "oauth_0010"
down_revision = "oauth_0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change the table."""
    op.execute("ALTER TABLE token ADD COLUMN reported_at timestamptz")
