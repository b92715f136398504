"""Add how far each schedule has come."""

from alembic import op

revision = "events_0008"
down_revision = "events_0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, and the index by which overdue ones are found."""
    op.execute(
        """
        CREATE TABLE schedule_state (
            id text PRIMARY KEY, version bigint NOT NULL, spec jsonb NOT NULL, handled_until timestamptz NOT NULL,
            next_at timestamptz, last jsonb, last_run text)
        """
    )
    op.execute("CREATE INDEX schedule_state_next ON schedule_state (next_at)")
