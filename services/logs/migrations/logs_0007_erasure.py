"""Messages that are to be erased, or were."""

from alembic import op

revision = "logs_0007"
down_revision = "logs_0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.execute(
        """
        CREATE TABLE erasure (
            incarnation text NOT NULL, seq bigint NOT NULL, stream text NOT NULL, time timestamptz NOT NULL, org text NOT NULL,
            type text NOT NULL, "of" text, bodies text[] NOT NULL, results text[] NOT NULL, entry bigint NOT NULL,
            actor text NOT NULL, reason text NOT NULL, taken boolean NOT NULL DEFAULT false, done boolean NOT NULL DEFAULT false,
            PRIMARY KEY (incarnation, seq))
        """
    )
    op.execute("CREATE INDEX erasure_undone ON erasure (stream) WHERE NOT done")
