"""Requests of a client that is lent, counted for each organization."""

from alembic import op

revision = "oauth_0011"
down_revision = "oauth_0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.execute(
        """
        CREATE TABLE lent_client (
            client text NOT NULL, org text NOT NULL, "left" double precision NOT NULL, at timestamptz NOT NULL,
            PRIMARY KEY (client, org)
        )
        """
    )
