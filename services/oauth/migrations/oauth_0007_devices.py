"""Authorizations by another device, whose provider is asked again and again, and what became of each authorization."""

from alembic import op

revision = "oauth_0007"
down_revision = "oauth_0006"
branch_labels = None
depends_on = None

STATEMENTS = (
    # Only a device's is polled: at `poll_at`, with `interval` seconds between two polls.
    """
    ALTER TABLE authorization_request
        ADD status text NOT NULL DEFAULT 'open', ADD reason text, ADD poll_at timestamptz, ADD interval double precision
    """,
    "CREATE INDEX authorization_request_poll_at ON authorization_request (poll_at) WHERE poll_at IS NOT NULL",
)


def upgrade() -> None:
    """Make the columns."""
    for statement in STATEMENTS:
        op.execute(statement)
