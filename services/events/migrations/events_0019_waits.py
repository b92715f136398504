"""Keep the waits of runs for events, the events that may answer one, and what a delivery has woken."""

from alembic import op

revision = "events_0019"
down_revision = "events_0018"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE event_wait (
        run text, name text, ordinal bigint, org text NOT NULL, source text NOT NULL, type text NOT NULL, path text NOT NULL,
        value text NOT NULL, expression text, variables jsonb NOT NULL, since timestamptz NOT NULL,
        PRIMARY KEY (run, name, ordinal))
    """,
    "CREATE INDEX event_wait_match ON event_wait (source, type, path, value, run)",
    "CREATE INDEX event_wait_org ON event_wait (org)",
    "CREATE TABLE new_wait (run text, name text, ordinal bigint, org text NOT NULL, PRIMARY KEY (run, name, ordinal))",
    "CREATE INDEX new_wait_org ON new_wait (org)",
    "CREATE TABLE awaited_event (event text PRIMARY KEY, org text NOT NULL, sequence bigint NOT NULL)",
    "CREATE INDEX awaited_event_order ON awaited_event (org, sequence)",
    """
    CREATE TABLE delivery_woken (
        run text, name text, ordinal bigint, org text NOT NULL, delivery text NOT NULL, number bigint NOT NULL,
        woken_at timestamptz NOT NULL, PRIMARY KEY (run, name, ordinal))
    """,
    "CREATE INDEX delivery_woken_delivery ON delivery_woken (delivery, woken_at, run)",
    "CREATE INDEX delivery_woken_org ON delivery_woken (org)",
)


def upgrade() -> None:
    """Make the tables."""
    for statement in STATEMENTS:
        op.execute(statement)
