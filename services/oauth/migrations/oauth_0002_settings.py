"""Secrets, sealed like tokens, and variables."""

from alembic import op

revision = "oauth_0002"
down_revision = "oauth_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    # As `connection`: no projection, since what is sealed is nowhere else.
    op.execute(
        """
        CREATE TABLE secret (
            id text PRIMARY KEY, org text NOT NULL, name text NOT NULL, sealed text NOT NULL,
            version bigint NOT NULL, revoking boolean NOT NULL DEFAULT false, announced boolean NOT NULL DEFAULT false,
            actor text NOT NULL, first_command text NOT NULL, last_command text NOT NULL,
            created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, UNIQUE (org, name))
        """
    )
    op.execute("CREATE INDEX secret_unannounced ON secret (updated_at) WHERE NOT announced")
    op.execute(
        """
        CREATE TABLE variable (
            org text NOT NULL, name text NOT NULL, value text NOT NULL, created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL, version bigint NOT NULL, PRIMARY KEY (org, name))
        """
    )
