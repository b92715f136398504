"""Add the events that subscriptions hold, and their groups."""

from alembic import op

revision = "events_0012"
down_revision = "events_0011"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE held (
        event text, subscription text, name text NOT NULL, workflow text NOT NULL, org text NOT NULL, source text NOT NULL,
        delivery text NOT NULL, number bigint NOT NULL, held_group text NOT NULL, key text NOT NULL,
        received_at timestamptz NOT NULL, held_at timestamptz NOT NULL, sequence bigint NOT NULL, PRIMARY KEY (event, subscription))
    """,
    "CREATE INDEX held_order ON held (held_group, received_at, delivery, number, event)",
    "CREATE INDEX held_subscription ON held (subscription)",
    """
    CREATE TABLE held_group (
        id text PRIMARY KEY, subscription text NOT NULL, run text NOT NULL, delivery text NOT NULL, number bigint NOT NULL,
        free_at timestamptz, released_at timestamptz NOT NULL)
    """,
    "CREATE INDEX held_group_run ON held_group (run)",
)


def upgrade() -> None:
    """Make the tables and their indexes."""
    for statement in STATEMENTS:
        op.execute(statement)
