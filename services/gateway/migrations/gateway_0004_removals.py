"""Organizations that are removed, and how far their owners are."""

from alembic import op

revision = "gateway_0004"
down_revision = "gateway_0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE removal (
        organization text PRIMARY KEY, id text NOT NULL, actor text NOT NULL, began_at timestamptz NOT NULL, ended_at timestamptz,
        until timestamptz)
    """,
    """
    CREATE TABLE removal_part (
        organization text NOT NULL, owner text NOT NULL, id text NOT NULL, step text NOT NULL, found jsonb NOT NULL, error text,
        at timestamptz NOT NULL, PRIMARY KEY (organization, owner))
    """,
)


def upgrade() -> None:
    """Add the tables."""
    for statement in STATEMENTS:
        op.execute(statement)
