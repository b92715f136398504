"""Add the messages of an ended run that the bus still holds."""

from alembic import op

revision = "executor_0002"
down_revision = "executor_0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    # whole: every message is on the bus. going: some may be purged. gone: all are. The row itself stays.
    """
    ALTER TABLE run
        ADD COLUMN finished_at timestamptz,
        ADD COLUMN on_bus text NOT NULL DEFAULT 'whole' CHECK (on_bus IN ('whole', 'going', 'gone'))
    """,
    "UPDATE run SET finished_at = CAST(state ->> 'finished_at' AS timestamptz) WHERE state ->> 'finished_at' IS NOT NULL",
    "CREATE INDEX run_to_purge ON run (finished_at) WHERE on_bus <> 'gone' AND finished_at IS NOT NULL",
)


def upgrade() -> None:
    """Change the table."""
    for statement in STATEMENTS:
        op.execute(statement)
