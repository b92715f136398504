"""An authorization is of the browser that it was opened in."""

from alembic import op

revision = "oauth_0009"
down_revision = "oauth_0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change the table."""
    op.execute("ALTER TABLE authorization_request ADD COLUMN browser text")
