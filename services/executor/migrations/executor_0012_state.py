"""Values that runs of an organization share."""

from alembic import op

revision = "executor_0012"
down_revision = "executor_0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table, and the numbers of its versions: one that was removed and made again has another."""
    op.execute("CREATE SEQUENCE state_version")
    op.execute(
        """
        CREATE TABLE state (
            org text NOT NULL,
            key text COLLATE "C" NOT NULL,
            value text NOT NULL,
            version bigint NOT NULL,
            updated_at timestamptz NOT NULL,
            updated_by text NOT NULL,
            change text NOT NULL,
            expires_at timestamptz,
            PRIMARY KEY (org, key)
        )
        """
    )
    op.execute("CREATE INDEX state_expiring ON state (expires_at) WHERE expires_at IS NOT NULL")
