"""Up to where retention has removed what is not to be kept."""

from alembic import op

revision = "logs_0006"
down_revision = "logs_0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.execute(
        """
        CREATE TABLE removal (
            stream text NOT NULL, org text NOT NULL, others text[] NOT NULL, time timestamptz NOT NULL, incarnation text NOT NULL,
            seq bigint NOT NULL, PRIMARY KEY (stream, org))
        """
    )
