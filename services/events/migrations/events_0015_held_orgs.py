"""Add to held events the organization that their runs will have: each has its turn, and its bound."""

from alembic import op

revision = "events_0015"
down_revision = "events_0014"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE held ADD COLUMN run_org text",
    "UPDATE held SET run_org = org",
    "ALTER TABLE held ALTER COLUMN run_org SET NOT NULL",
    "CREATE INDEX held_org ON held (run_org, held_group)",
)


def upgrade() -> None:
    """Add the column and its index."""
    for statement in STATEMENTS:
        op.execute(statement)
