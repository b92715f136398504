"""Add for which adapter a delivery waits, and why."""

from alembic import op

revision = "events_0014"
down_revision = "events_0013"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE delivery ADD COLUMN deferred_for text, ADD COLUMN deferred text",
    """
    CREATE INDEX delivery_deferred ON delivery (org, deferred_for, received_at, id)
        WHERE deferred_for IS NOT NULL AND dead IS NULL
    """,
)


def upgrade() -> None:
    """Make the columns and the index."""
    for statement in STATEMENTS:
        op.execute(statement)
