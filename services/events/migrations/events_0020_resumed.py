"""Keep which run of a delivery goes on with which."""

from alembic import op

revision = "events_0020"
down_revision = "events_0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.execute("ALTER TABLE delivery_run ADD COLUMN resumes text")
