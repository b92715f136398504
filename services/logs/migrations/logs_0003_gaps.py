"""Which version made a row, and sequences that the archive never got."""

from alembic import op

revision = "logs_0003"
down_revision = "logs_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the column and the table."""
    # A constant default is not written into the rows that are there.
    op.execute("ALTER TABLE message ADD COLUMN version smallint NOT NULL DEFAULT 0")
    op.execute(
        """
        CREATE TABLE gap (
            stream text NOT NULL, incarnation text NOT NULL, first_seq bigint NOT NULL, last_seq bigint NOT NULL,
            reason text NOT NULL, found_at timestamptz NOT NULL DEFAULT now(), recorded boolean NOT NULL DEFAULT false,
            PRIMARY KEY (stream, incarnation, first_seq))
        """
    )
