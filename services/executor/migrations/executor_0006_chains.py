"""Add the chain that a child run continues."""

from alembic import op

revision = "executor_0006"
down_revision = "executor_0005"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE run ADD COLUMN chain text",
    "CREATE INDEX run_chain ON run (org, chain) WHERE chain IS NOT NULL",
)


def upgrade() -> None:
    """Make the column and its index; chains of before begin anew."""
    for statement in STATEMENTS:
        op.execute(statement)
