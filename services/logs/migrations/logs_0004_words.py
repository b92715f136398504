"""Words of messages as the service splits them, which the database did before."""

from alembic import op

revision = "logs_0004"
down_revision = "logs_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Record that the words of archived rows are to be written anew, which the service does while it serves."""
    op.execute("INSERT INTO conversion SELECT 'words', '9999-01-01', '', 0 WHERE EXISTS (SELECT FROM message)")
