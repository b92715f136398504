"""Name the time of a schedule's last firing as its run does."""

from alembic import op

revision = "events_0010"
down_revision = "events_0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Rename the member."""
    op.execute(
        """
        UPDATE schedule_state SET last = (last - 'planned_at') || jsonb_build_object('scheduled_for', last->'planned_at')
        WHERE last->'planned_at' IS NOT NULL
        """
    )
