"""Connections with their sealed credentials, and what the oauth service remembers of commands."""

from alembic import op

revision = "oauth_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.execute(
        """
        CREATE TABLE checkpoint (
            projection text PRIMARY KEY, stream text NOT NULL, incarnation text NOT NULL, last_seq bigint NOT NULL,
            updated_at timestamptz NOT NULL DEFAULT now())
        """
    )
    # Not a projection: the sealed token is nowhere else. `announced` says that the row's state is on the bus as well.
    op.execute(
        """
        CREATE TABLE connection (
            id text PRIMARY KEY, org text NOT NULL, name text NOT NULL, grant_kind text NOT NULL, sealed text NOT NULL,
            version bigint NOT NULL, revoking boolean NOT NULL DEFAULT false, announced boolean NOT NULL DEFAULT false,
            actor text NOT NULL, first_command text NOT NULL, last_command text NOT NULL,
            created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, UNIQUE (org, name))
        """
    )
    op.execute("CREATE INDEX connection_unannounced ON connection (updated_at) WHERE NOT announced")
    # Commands whose connection is gone: repeated, they must neither fail nor make it again.
    op.execute("CREATE TABLE done_command (id text PRIMARY KEY, removed boolean NOT NULL, at timestamptz NOT NULL)")
    op.execute("CREATE INDEX done_command_at ON done_command (at)")
