"""Find the queued runs of the worker groups that an executor serves, and count those of others, without reading all."""

from alembic import op

revision = "executor_0011"
down_revision = "executor_0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, and have it in the index of queued runs. An executor without it writes runs of the default group."""
    op.execute("ALTER TABLE run ADD COLUMN worker_group text NOT NULL DEFAULT 'default'")
    op.execute("DROP INDEX run_queued")
    op.execute("CREATE INDEX run_queued ON run (worker_group, org) WHERE status = 'queued'")
