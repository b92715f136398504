"""Index deliveries without an end by their source: the ordered events of one wait for these, and not for a flood of another's."""

from alembic import op

revision = "events_0016"
down_revision = "events_0015"
branch_labels = None
depends_on = None

STATEMENTS = (
    "DROP INDEX delivery_unended",
    "CREATE INDEX delivery_unended ON delivery (source, received_at) WHERE NOT ended AND dead IS NULL",
)


def upgrade() -> None:
    """Replace the index."""
    for statement in STATEMENTS:
        op.execute(statement)
