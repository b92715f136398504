"""The adapters of workspaces."""

from alembic import op

revision = "executor_0010"
down_revision = "executor_0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.execute(
        """
        CREATE TABLE adapter (
            org text NOT NULL,
            name text COLLATE "C" NOT NULL,
            entry json NOT NULL,
            version bigint NOT NULL,
            PRIMARY KEY (org, name)
        )
        """
    )
