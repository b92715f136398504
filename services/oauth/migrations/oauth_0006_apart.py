"""A message that cannot be published waits apart."""

from alembic import op

revision = "oauth_0006"
down_revision = "oauth_0005"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE outbox ADD COLUMN tries bigint NOT NULL DEFAULT 0, ADD COLUMN not_before timestamptz",
    "CREATE INDEX outbox_not_before ON outbox (not_before) WHERE not_before IS NOT NULL",
)


def upgrade() -> None:
    """Change the table."""
    for statement in STATEMENTS:
        op.execute(statement)
