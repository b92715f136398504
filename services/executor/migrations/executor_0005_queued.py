"""Find the organizations with queued runs without reading all runs."""

from alembic import op

revision = "executor_0005"
down_revision = "executor_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index."""
    op.execute("CREATE INDEX run_queued ON run (org) WHERE status = 'queued'")
