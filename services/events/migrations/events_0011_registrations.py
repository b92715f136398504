"""Add the registrations of sources with their senders."""

from alembic import op

revision = "events_0011"
down_revision = "events_0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, and the index of the sources that want one."""
    op.execute("CREATE TABLE registration (source text PRIMARY KEY, org text NOT NULL, state jsonb NOT NULL)")
    op.execute(
        """
        CREATE INDEX resource_registered ON resource (id) WHERE noun = 'source' AND NOT removed
            AND (spec -> 'settings' -> 'registration') IS NOT NULL
        """
    )
