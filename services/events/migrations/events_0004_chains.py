"""Add the numbers of a chain's runs and of their emitted events; and the emitted events that wait to be routed."""

from alembic import op

revision = "events_0004"
down_revision = "events_0003"
branch_labels = None
depends_on = None

# `events` is written by the projection of EVENTS only, `runs` by that of RUNS.
STATEMENTS = (
    """
    CREATE TABLE chain (
        org text NOT NULL, id text NOT NULL, events bigint NOT NULL DEFAULT 0, runs bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (org, id))
    """,
    """
    CREATE INDEX delivery_unrouted ON delivery (org, received_at)
     WHERE outcome = 'accepted' AND emitted IS NOT NULL AND dead IS NULL
    """,
)


def upgrade() -> None:
    """Make the table and the index."""
    for statement in STATEMENTS:
        op.execute(statement)
