"""Add replays of many deliveries."""

from alembic import op

revision = "events_0009"
down_revision = "events_0008"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE replay (
        id text PRIMARY KEY, org text NOT NULL, status text NOT NULL, since timestamptz NOT NULL, until timestamptz NOT NULL,
        source text, source_name text, delivery_status text, type text, everything boolean NOT NULL,
        rate double precision NOT NULL, total bigint NOT NULL, replayed bigint NOT NULL DEFAULT 0,
        skipped bigint NOT NULL DEFAULT 0, failed bigint NOT NULL DEFAULT 0, actor text NOT NULL,
        requested_at timestamptz NOT NULL, ended_at timestamptz)
    """,
    "CREATE INDEX replay_list ON replay (org, requested_at DESC, id DESC)",
    "CREATE INDEX replay_running ON replay (requested_at) WHERE status = 'running'",
)


def upgrade() -> None:
    """Make the table."""
    for statement in STATEMENTS:
        op.execute(statement)
