"""Count the parked runs without reading all that wait."""

from alembic import op

revision = "executor_0009"
down_revision = "executor_0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    op.execute("CREATE INDEX run_parked ON run (id) WHERE status = 'waiting' AND blocked_on = 'worker'")
