"""Sign-ins of the command."""

from alembic import op

revision = "gateway_0003"
down_revision = "gateway_0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    # No projection: one that is lost is begun anew.
    """
    CREATE TABLE login (
        id text PRIMARY KEY, device bytea NOT NULL UNIQUE, code bytea NOT NULL UNIQUE, host text NOT NULL, address text,
        neighbourhood text, org text, role text, lifetime bigint NOT NULL, name text NOT NULL, pace bigint NOT NULL,
        state text NOT NULL DEFAULT 'pending', asked_at timestamptz NOT NULL DEFAULT now(), ends_at timestamptz NOT NULL,
        polled_at timestamptz, actor text, decided_at timestamptz, user_id text)
    """,
    "CREATE INDEX login_ends_at ON login (ends_at)",
)


def upgrade() -> None:
    """Make the table."""
    for statement in STATEMENTS:
        op.execute(statement)
