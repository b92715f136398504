"""A client's secret, a token and a question to a person know where they may be sent."""

from alembic import op

revision = "oauth_0008"
down_revision = "oauth_0007"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE vault ADD COLUMN destination text",
    "ALTER TABLE token ADD COLUMN origin text",
    "ALTER TABLE authorization_request ADD COLUMN origin text",
)


def upgrade() -> None:
    """Change the tables."""
    for statement in STATEMENTS:
        op.execute(statement)
