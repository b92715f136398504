"""Add the waits that a workflow itself has given up."""

from alembic import op

revision = "executor_0008"
down_revision = "executor_0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of waits of before it is not known any more."""
    op.execute("ALTER TABLE step ADD COLUMN given_up boolean NOT NULL DEFAULT false")
