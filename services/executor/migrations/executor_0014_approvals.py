"""What runs ask people."""

from alembic import op

revision = "executor_0014"
down_revision = "executor_0013"
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE approval (
        id text NOT NULL, approval text NOT NULL, org text NOT NULL, workflow text NOT NULL, status text NOT NULL,
        opened_at timestamptz NOT NULL, next_at timestamptz, addressed text NOT NULL, ask json NOT NULL,
        PRIMARY KEY (id, approval))
    """,
    "CREATE INDEX approval_list ON approval (org, opened_at DESC, approval DESC)",
    "CREATE INDEX approval_due ON approval (next_at) WHERE next_at IS NOT NULL",
)


def upgrade() -> None:
    """Make the table; no run has asked before."""
    for statement in TABLES:
        op.execute(statement)
